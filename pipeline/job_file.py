"""Reading a job file: YAML and assignments to a checked JobConfig, with every problem in one error."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import JobConfig
from pipeline.errors import ConfigError

__all__ = ["load_draft", "load_file", "load_job", "parse_job"]

T = TypeVar("T", bound=BaseModel)

# PyYAML raises ValueError for 2024-13-45 (no date), and RecursionError for a thousand brackets.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def load_job(path: str | Path, assignments: Iterable[str] = ()) -> JobConfig:
    """Reads the job file of a dataset; see `load_file`."""
    return load_file(path, assignments, JobConfig)


def load_file(path: str | Path, assignments: Iterable[str], kind: type[T]) -> T:
    """Reads a job file of any kind.

    Args:
        path: a local YAML file.
        assignments: `key.sub=value` each, applied over the file; the value is read as YAML.
        kind: what the file says.

    Raises:
        ConfigError: the file cannot be read, or does not say a job; all problems at once.
    """
    return _parsed(_read(path, assignments), kind)


def load_draft(path: str | Path, assignments: Iterable[str], kind: type[T]) -> tuple[T | None, list[str]]:
    """Reads what can be read of a file, for whoever wants to know all that is wrong with it and with what it names.

    Args:
        path: a local YAML file.
        assignments: as of `load_file`.
        kind: what the file says.

    Returns:
        What it says without the values that are refused, or None where it is too little; and a line for each of those.

    Raises:
        ConfigError: the file cannot be read.
    """
    raw, said = _read(path, assignments), dict[str, None]()
    while True:
        try:
            return kind.model_validate(raw), list(said)
        except ValidationError as error:
            problems = error.errors()
        said |= dict.fromkeys(line for problem in problems for line in _explain(problem, kind).splitlines())
        if not any([_dropped(raw, problem["loc"]) for problem in problems]):  # of all, not up to the first
            return None, list(said)


def _dropped(raw: Any, location: Sequence[str | int]) -> bool:
    """Takes a value out, or the nearest that stands around it; whether there was one."""
    values = [raw]
    for part in location:
        if not isinstance(values[-1], dict) or part not in values[-1]:
            break
        values.append(values[-1][part])
    if len(values) > 1:
        del values[-2][location[len(values) - 2]]
    return len(values) > 1


def _read(path: str | Path, assignments: Iterable[str]) -> dict[str, Any]:
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
    return raw


def parse_job(raw: Mapping[str, Any]) -> JobConfig:
    """Checks the job of a dataset given as plain values.

    Raises:
        ConfigError: with one line for each problem.
    """
    return _parsed(raw, JobConfig)


def _parsed(raw: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        explained = (_explain(problem, kind) for problem in error.errors())
        raise ConfigError([line for lines in explained for line in lines.splitlines()]) from None


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


def _explain(problem: Any, kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _keys_beside(problem["loc"], kind)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{key}: there is no such key" + (f"; did you mean {near[0]}?" if near else f" (there are {known})")
    if problem["type"] == "missing":
        return f"{key}: is required"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (found {problem['input']!r})"


def _keys_beside(location: tuple[str | int, ...], kind: type[BaseModel]) -> list[str]:
    section: Any = kind
    for part in location[:-1]:
        field = _fields(section).get(part)
        if field is None:
            return []
        # Of a section that may be null, the section.
        section = next((one for one in (field, *get_args(field)) if _fields(one)), None)
    return list(_fields(section))


def _fields(section: Any) -> dict[Any, Any]:
    """The keys of a section, a model or a dataclass, and their types."""
    if hasattr(section, "model_fields"):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return get_type_hints(section) if dataclasses.is_dataclass(section) else {}
