"""Reading a job file: YAML and assignments to a checked JobConfig, with every problem in one error."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import JobConfig
from pipeline.errors import ConfigError

__all__ = ["load_job", "parse_job"]

# PyYAML raises ValueError for 2024-13-45 (no date), and RecursionError for a thousand brackets.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def load_job(path: str | Path, assignments: Iterable[str] = ()) -> JobConfig:
    """Reads a job file.

    Args:
        path: a local YAML file.
        assignments: `key.sub=value` each, applied over the file; the value is read as YAML.

    Raises:
        ConfigError: the file cannot be read, or does not say a job; all problems at once.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except _NOT_YAML as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping with input, output and model, found {type(raw).__name__}")
    for assignment in assignments:
        _assign(raw, assignment)
    return parse_job(raw)


def parse_job(raw: Mapping[str, Any]) -> JobConfig:
    """Checks a job given as plain values.

    Raises:
        ConfigError: with one line for each problem.
    """
    try:
        return JobConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([_explain(problem) for problem in error.errors()]) from None


def _assign(raw: dict[str, Any], assignment: str) -> None:
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment}: expected key=value, such as executor.num_workers=4")
    *parents, name = key.strip().split(".")
    target = raw
    for parent in parents:
        inner = target.setdefault(parent, {})
        if inner is None:
            inner = target[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment}: {parent} is {inner!r}, which has no keys")
        target = inner
    try:
        target[name] = yaml.safe_load(value)
    except _NOT_YAML:
        raise ConfigError(f"--set {assignment}: {value!r} is not a YAML value") from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{key}: there is no such key" + (f"; did you mean {near[0]}?" if near else f" (there are {known})")
    if problem["type"] == "missing":
        return f"{key}: is required"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (found {problem['input']!r})"


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    section: Any = JobConfig
    for part in location[:-1]:
        field = section.model_fields.get(part)
        if field is None:
            return []
        section = field.annotation
    return list(section.model_fields)
