"""Whether anybody listens where a job's Ray cluster should be, found out in seconds and without Ray."""

import os
import re
import socket

from pipeline.config import ExecutorConfig
from pipeline.errors import ConfigError

__all__ = ["check_address"]

_WAIT_SECONDS = 5.0
# What names no machine: a cluster of this one, which is started where there is none.
_HERE = {"", "auto", "local"}


def check_address(executor: ExecutorConfig) -> None:
    """Connects once to the address of a job's Ray cluster, if it names one.

    Raises:
        ConfigError: it is no address, or nobody answers there.
    """
    address = executor.address or os.environ.get("RAY_ADDRESS") or ""
    if executor.kind != "ray" or address in _HERE:
        return
    key = "executor.address" if executor.address else "RAY_ADDRESS"
    named = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^/\s]+?)\]?:(?P<port>\d{1,5})", address)
    if named is None or int(named["port"]) > 65535:
        raise ConfigError(f"{key}: {address}: expected host:port, ray://host:port, auto or local")
    try:
        socket.create_connection((named["host"], int(named["port"])), timeout=_WAIT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"{key}: no Ray cluster answers at {address}: {error.strerror or error}") from None
