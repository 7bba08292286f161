"""What optional dependencies bring, looked for before anything is begun."""

import importlib.util

from pipeline.errors import ConfigError

__all__ = ["check_extra", "lacking_package"]

_PACKAGES = {"report": ("jinja2", "matplotlib"), "train": ("tensorboard",)}


def lacking_package(extra: str) -> str | None:
    """The first package of an extra that is not installed; None where all are."""
    return next((name for name in _PACKAGES[extra] if importlib.util.find_spec(name) is None), None)


def check_extra(extra: str, what: str) -> None:
    """Raises a ConfigError that says what needs an extra, unless it is installed."""
    if (package := lacking_package(extra)) is not None:
        raise ConfigError(f"{what} needs {package}: pip install 'vidtok-pipeline[{extra}]'")
