"""What a command needs beside the plain installation, looked for before anything is begun."""

import importlib.util
from pathlib import Path

from pipeline.errors import ConfigError

__all__ = ["check_extra", "check_page", "lacking_package"]

_PACKAGES = {"report": ("jinja2", "matplotlib"), "train": ("tensorboard",)}


def lacking_package(extra: str) -> str | None:
    """The first package of an extra that is not installed; None where all are."""
    return next((name for name in _PACKAGES[extra] if importlib.util.find_spec(name) is None), None)


def check_extra(extra: str, what: str) -> None:
    """Raises a ConfigError that says what needs an extra, unless it is installed."""
    if (package := lacking_package(extra)) is not None:
        raise ConfigError(f"{what} needs {package}: pip install 'vidtok-pipeline[{extra}]'")


def check_page(page: Path, option: str) -> None:
    """Raises a ConfigError where a page cannot be made or written; makes its folder."""
    check_extra("report", "the page")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.open("a").close()
    except OSError as error:
        raise ConfigError(f"{option} {page}: cannot be written: {error.strerror or error}") from None
