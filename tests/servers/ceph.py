"""Ceph's S3 server with one monitor and one OSD, as root, without containers: the real thing, in about ten seconds."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.servers.process import end, free_port, start, wait_for_port

__all__ = ["PROGRAMS", "Ceph", "missing_programs"]

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool")
_SETTINGS = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
osd objectstore = bluestore
bluestore block size = 8589934592
osd memory target = 939524096
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = {folder}/mon
mon data avail crit = 0
osd data = {folder}/osd
rgw data = {folder}/rgw
keyring = {folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:{s3_port}
rgw dns name = 127.0.0.1
"""


class Ceph:
    """A server that has one user, whose keys are those of the tests' environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._s3_port = free_port()
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._s3_port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        folder, fsid = self._folder, uuid.uuid4()
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        settings = _SETTINGS.format(fsid=fsid, port=self._port, s3_port=self._s3_port, folder=folder)
        (folder / "ceph.conf").write_text(settings)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"v2:127.0.0.1:{self._port}", folder / "map")
        # One file with the keys of all: each finds its own by name.
        keyring = folder / "keyring"
        everything = [word for kind in ("mon", "osd", "mgr") for word in ("--cap", kind, "allow *")]
        for number, name in enumerate(("mon.", "client.admin", "osd.0", "client.rgw")):
            create = ("--create-keyring",) if number == 0 else ()
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *everything)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "map", "--keyring", keyring)
        self._daemon("ceph-mon", "-f", "-i", "a", port=self._port)
        osd = uuid.uuid4()
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-f", "-i", "0")
        self._daemon("radosgw", "-f", "-n", "client.rgw", port=self._s3_port)
        keys = ("--access-key", os.environ["AWS_ACCESS_KEY_ID"], "--secret", os.environ["AWS_SECRET_ACCESS_KEY"])
        self._run("radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests", *keys)

    def stop(self) -> None:
        for process in reversed(self._processes):
            end(process)

    def _run(self, program: str, *arguments: object) -> None:
        words = [program, "-c", self._folder / "ceph.conf", *arguments]
        if program in ("monmaptool", "ceph-authtool"):
            words = [program, *arguments]
        run = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
        if run.returncode:
            raise RuntimeError(f"{words} ended with {run.returncode}:\n{run.stderr[-2000:]}")

    def _daemon(self, program: str, *arguments: object, port: int | None = None) -> None:
        log = self._folder / f"{program}.out"
        process = start([program, "-c", self._folder / "ceph.conf", *arguments], log)
        self._processes.append(process)
        if port is not None:
            wait_for_port(port, process, log)


def missing_programs() -> list[str]:
    """What is not installed of all that is needed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]
