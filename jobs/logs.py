"""Where log lines go: to stderr, without secrets."""

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

from pipeline.secrets import RedactingFormatter

__all__ = ["log_to"]


def log_to(console: Console, level: int = logging.WARNING) -> None:
    """Sends this project's log lines of a level, and all others' warnings, to stderr, which `console` stands for."""
    # Off a terminal a record is one line, not broken to the width of one.
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("pipeline", "vidtok_model", "jobs"):
        logging.getLogger(package).setLevel(level)
