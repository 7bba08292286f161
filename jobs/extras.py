"""What a command needs beside the plain installation, looked for before its work is done."""

import importlib.util
from pathlib import Path

from pipeline.errors import ConfigError

__all__ = ["check_packages", "check_page"]


def check_packages(what: str, extra: str, *packages: str) -> None:
    """Raises a ConfigError, which says how to install them, where one of these is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what} needs {package}: pip install 'vidtok-pipeline[{extra}]'")


def check_page(page: Path, option: str, *packages: str) -> None:
    """Raises a ConfigError where a page cannot be made or written; makes its folder."""
    check_packages("the page", "report", *packages)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.open("a").close()
    except OSError as error:
        raise ConfigError(f"{option} {page}: cannot be written: {error.strerror or error}") from None
