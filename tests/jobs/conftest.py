"""The command line, run in the test's own process."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jobs.cli
from tests.support import require

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def vidtok(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs the command line in this process; gives its exit code, stdout and stderr.

    A job leaves a report, which takes seconds, only where it is asked for.
    """

    def run(*arguments: object) -> SimpleNamespace:
        is_job = arguments[0] in ("tokenize", "retry-rejects") and "--report" not in arguments
        monkeypatch.setattr(sys, "argv", ["vidtok", *map(str, arguments), *["--no-report"] * is_job])
        code: Any = 0
        try:
            jobs.cli.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code or 0, out=out, err=err)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    root.handlers, root.level = handlers, level


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, to open the pages that we make."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    require("chromium", path is not None, "no chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Callable[[Path], Any]:
    """Opens a page, which loads nothing from elsewhere and has nothing to complain of."""

    def open_it(page: Path) -> Any:
        opened = browser.new_page()
        said: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("dialog", lambda dialog: said.append(dialog.message))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        return opened

    return open_it
