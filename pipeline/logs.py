"""Log records: lines for people, or JSON for whatever collects them; and what a record is about."""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pipeline.secrets import RedactingFormatter, redact

__all__ = [
    "JsonFormatter",
    "LogFormat",
    "LogSettings",
    "about",
    "adopt_logger",
    "identify",
    "log_settings",
    "set_up_logs",
]

_OURS = ("pipeline", "vidtok_model", "jobs")
# What Ray would do with workers' lines on their way to the driver's stderr: leave out those that look like others, and
# put a worker's name before each. It reads these when it is imported, and the second one in its later versions only.
_RAY_LEAVES_LINES_ALONE = {"RAY_DEDUP_LOGS": "0", "RAY_DISABLE_WORKER_LOG_PREFIX": "1"}


class LogFormat(StrEnum):
    """How records are written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How a process writes records, and so its workers.

    Attributes:
        format: lines of text, or an object of JSON a line.
        level: of our own loggers; others say warnings.
    """

    format: LogFormat = LogFormat.TEXT
    level: int = logging.WARNING


_settings = LogSettings()
_identity: dict[str, str] = {}
_about: ContextVar[Mapping[str, str]] = ContextVar("about")


def log_settings() -> LogSettings:
    """How this process writes records."""
    return _settings


def set_up_logs(settings: LogSettings, handler: logging.Handler | None = None) -> None:
    """Writes the records of this process without secrets, to stderr; `handler` is where lines of text go instead."""
    global _settings
    _settings = settings
    is_json = settings.format is LogFormat.JSON
    if is_json:
        os.environ.update(_RAY_LEAVES_LINES_ALONE)
    if handler is None or is_json:
        handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if is_json else RedactingFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(is_json)
    for package in _OURS:
        logging.getLogger(package).setLevel(settings.level)


def adopt_logger(name: str) -> None:
    """Where records are JSON, has those of a library be so too that brings a handler of its own."""
    if _settings.format is LogFormat.JSON:
        logging.getLogger(name).handlers[:] = logging.getLogger().handlers


def identify(**facts: str) -> None:
    """What every record of this process says from here on: its run, and which worker it is."""
    _identity.update(facts)


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """What the records of a block say: the shard, the video. A thread has to be given a copy of the context."""
    token = _about.set({**_about.get({}), **facts})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, in ASCII, without secrets.

    `extra={"shard": ..., "video": ...}` says of one record what `about` says of a block.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        said = {name: getattr(record, name) for name in ("shard", "video") if hasattr(record, name)}
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_identity,
            **_about.get({}),
            **said,
            "node": socket.gethostname(),
            "pid": record.process,
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        # Before they are quoted, which would hide a secret that holds a quote.
        return json.dumps({name: redact(fact) if isinstance(fact, str) else fact for name, fact in facts.items()})
