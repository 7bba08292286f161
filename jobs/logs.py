"""Where a command's log goes."""

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from jobs.display import SaidAsRecords
from pipeline.logs import LogFormat, LogSettings, log_settings, set_up_logs

__all__ = ["log_to", "say"]

log = logging.getLogger(__name__)


def log_to(console: Console, level: int = logging.WARNING, log_format: LogFormat = LogFormat.TEXT) -> None:
    """Sends what our packages say from a level on to a console, or as JSON to stderr, what the console is told too."""
    if log_format is LogFormat.JSON:
        set_up_logs(LogSettings(format=log_format, level=min(level, logging.INFO)))
        console.file = SaidAsRecords()
        return
    # Off a terminal a record is one line, not broken to the width of one.
    handler = RichHandler(console=console, show_path=False) if console.is_terminal else None
    set_up_logs(LogSettings(level=level), handler)


def say(console: Console, level: int, markup: str) -> None:
    """Tells what went wrong: prints it, or writes one JSON record of a level that those who watch for it find."""
    if log_settings().format is LogFormat.JSON:
        log.log(level, "%s", Text.from_markup(markup, emoji=False).plain.strip())
    else:
        console.print(markup, soft_wrap=True)
