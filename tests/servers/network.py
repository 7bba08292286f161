"""Hosts in network namespaces of this machine, each two of them joined by a cable that can be cut."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.servers.process import start

__all__ = ["Network", "why_not"]

# Belongs to no host, so that a frame to it is heard by none.
_NOBODY = "02:00:00:00:00:00"
_END_SECONDS = 30


def _ip(*words: str) -> str:
    run = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60)
    if run.returncode:
        raise OSError(f"ip {' '.join(words)}: {run.stderr.strip()}")
    return run.stdout


def why_not() -> str | None:
    """Why there can be no such network here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces want root"
    if shutil.which("ip") is None:
        return "no ip"
    try:
        with Network(["a", "b"]):
            return None
    except OSError as error:
        return str(error)


class Network:
    """Stands while the block runs; then all that still runs on its hosts is killed.

    A host has one address, on all its cables, so the others reach it by the same name, each over a cable of its own;
    none forwards for another. Nothing of it is seen or reached from outside.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        """Makes the hosts, of at most 12 letters each."""
        self.addresses = {host: f"10.0.0.{number}" for number, host in enumerate(hosts, 1)}
        self._names = {host: f"vidtok-{os.getpid()}-{host}" for host in hosts}
        self._started: list[Any] = []

    def __enter__(self) -> Self:
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "dev", "lo", "up")
            for one, other in itertools.combinations(self._names, 2):
                self._join(one, other)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        standing = {line.split()[0] for line in _ip("netns", "list").splitlines()}
        for host, name in self._names.items():
            if name in standing:
                self.kill(host)
                _ip("netns", "delete", name)
        for process in self._started:
            process.wait(timeout=_END_SECONDS)

    def _join(self, one: str, other: str) -> None:
        ends = ((one, other), (other, one))
        first, second = (["name", f"to-{far}", "netns", self._names[near]] for near, far in ends)
        _ip("link", "add", *first, "type", "veth", "peer", *second)
        for near, far in ends:
            on, cable = ["-n", self._names[near]], ["dev", f"to-{far}"]
            _ip(*on, "address", "add", self.addresses[near], "peer", self.addresses[far], *cable)
            _ip(*on, "link", "set", *cable, "up")
            # Leads nowhere, but programs look for their own address by asking for the way out.
            _ip(*on, "route", "replace", "default", *cable)

    def cut(self, one: str, other: str) -> None:
        """From now on nothing comes over the cable between two hosts, and no end is told.

        As behind a switch that died. A link set down would tell one end at once; netem is a module that not every
        kernel has.
        """
        for near, far in ((one, other), (other, one)):
            self._neighbour("replace", near, far, "lladdr", _NOBODY, "nud", "permanent")

    def mend(self, one: str, other: str) -> None:
        """Undoes `cut`."""
        for near, far in ((one, other), (other, one)):
            self._neighbour("delete", near, far)

    def _neighbour(self, what: str, near: str, far: str, *words: str) -> None:
        _ip("-n", self._names[near], "neighbour", what, self.addresses[far], *words, "dev", f"to-{far}")

    def start(self, host: str, command: Sequence[object], log: Path, environment: Mapping[str, str]) -> Any:
        """Starts a program on a host, its output in a file; `environment` is added to this process's."""
        self._started.append(start(["ip", "netns", "exec", self._names[host], *command], log, environment))
        return self._started[-1]

    def kill(self, host: str) -> None:
        """Kills all that runs on a host, and waits until it is gone."""
        ends = time.monotonic() + _END_SECONDS
        while pids := _ip("netns", "pids", self._names[host]).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > ends:
                raise TimeoutError(f"{host}: {pids} do not end")
            time.sleep(0.02)
