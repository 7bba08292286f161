"""What a command tells whoever watches its log."""

import io
import logging

import pytest
from rich.console import Console
from rich.markup import escape

from jobs.logs import say
from pipeline import logs
from pipeline.logs import LogFormat, LogSettings

MARKUP = f"[red]failed[/] {escape('[bold]x[/nope].tar')}: " + "no route to it " * 9
TEXT = "failed [bold]x[/nope].tar: " + "no route to it " * 9


def test_what_went_wrong_is_one_record_of_its_level(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "_settings", LogSettings(format=LogFormat.JSON))
    console = Console(file=io.StringIO())
    with caplog.at_level(logging.INFO, "jobs"):
        say(console, logging.ERROR, MARKUP)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", TEXT.strip())]


def test_for_people_it_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logs, "_settings", LogSettings())
    printed = io.StringIO()
    say(Console(file=printed), logging.ERROR, MARKUP)
    assert printed.getvalue() == f"{TEXT}\n" and not caplog.records
