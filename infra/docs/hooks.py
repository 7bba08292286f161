"""The reference pages, made from the code whenever the site is built: MkDocs calls `on_files`.

Job files come from their models, commands from the command line's own description, and of Python what each module's
`__all__` names.
"""

import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).parents[2]))  # MkDocs is not started in the checkout's root by everybody

from jobs.cli import app
from jobs.train_config import TrainingJob
from pipeline.config import JobConfig

__all__ = ["on_files"]

_JOB = """\
Every key of a job file, as `vidtok tokenize`, `plan` and `preview` take it. A key is named by its path: `executor.num_workers`
stands in the section `executor`, and `--set executor.num_workers=4` puts it over the file. Unknown keys are errors. `vidtok
config job.yaml` prints a job with all its defaults."""
_TRAINING_JOB = """\
Every key of a file for `vidtok train`: one stage of training. `--set training.steps=100` puts a key over the file, and unknown
keys are errors."""
_COMMANDS = """\
Exit codes: 0, all is well; 1, something failed, or `verify` found a problem; 2, the command cannot run as it is, and did
nothing; 130 and 143, it was interrupted or stopped by SIGTERM, and the same command goes on. Errors go to stderr."""
_MODULES = {
    "pipeline": "pipeline",
    "vidtok_model": "vidtok_model",
    "metrics": "vidtok_model.metrics",
    "preprocessing": "vidtok_model.preprocessing",
}
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", type(None): "null", Any: "any value"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_GIB, _MIB = 2**30, 2**20


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    pages = {
        "job": job_file_page("The job file", _JOB, JobConfig),
        "training-job": job_file_page("The training job file", _TRAINING_JOB, TrainingJob),
        "commands": commands_page(),
        **{name: api_page(module) for name, module in _MODULES.items()},
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


# Job files


def job_file_page(title: str, intro: str, model: type[BaseModel]) -> str:
    """A page on every key of a kind of job file; a key's anchor is its dotted path."""
    return "\n\n".join([f"# {title}", intro, *_section("", model, required=True)]) + "\n"


def _section(path: str, model: type, *, required: bool) -> Iterator[str]:
    """Its own keys, then the sections in it."""
    sections = []
    if path:
        yield f"## {path} {{ #{path} }}"
        yield f"{_sentence(model)}{' Required.' if required else ''}"
    else:
        yield "## Top level { #top-level }"
    for name, field in _fields(model).items():
        key = f"{path}.{name}" if path else name
        inner = _sections_in(field.annotation)
        if inner:
            sections.append((key, inner[0], field))
        if not inner or field.default is None:  # one that may be left out is a key of its own
            yield from _key(key, field, inner)
    for key, inner_model, field in sections:
        yield from _section(key, inner_model, required=field.is_required())


def _key(key: str, field: FieldInfo, inner: list[type]) -> Iterator[str]:
    anchor = f"{key}-or-null" if inner else key
    yield f"### {key} {{ #{anchor} }}"
    default = "required" if field.is_required() else f"default {_value(field.get_default(call_default_factory=True))}"
    kind = f"section [{key}](#{key}), or null" if inner else _kind(field.annotation, field.metadata)
    yield f"*{kind}*, {default}"
    if text := field.description or (_sentence(inner[0]) if inner else ""):
        yield prose(text)


def _fields(model: Any) -> dict[str, FieldInfo]:
    if not dataclasses.is_dataclass(model):
        found: dict[str, FieldInfo] = model.model_fields
        return found
    # Below each field of a plain dataclass stands what describes it, which pydantic puts into the schema.
    said, types = TypeAdapter(model).json_schema()["properties"], get_type_hints(model)
    return {
        field.name: FieldInfo(
            annotation=types[field.name], default=field.default, description=said[field.name].get("description")
        )
        for field in dataclasses.fields(model)
    }


def _sections_in(annotation: Any) -> list[type]:
    """The models that a type names: itself, or members of a union or a list."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return [annotation]
    return [model for member in get_args(annotation) for model in _sections_in(member)]


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in plain words, with the range that it is held to."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [one for field in arguments[1:] for one in (field.metadata if isinstance(field, FieldInfo) else [field])]
        return _kind(arguments[0], [*inner, *metadata])
    if origin in (Union, UnionType):
        members = [_kind(member, () if member is type(None) else metadata) for member in arguments]
        return ", or ".join([" or ".join(members[:-1]), members[-1]]) if members[-1] == "null" else " or ".join(members)
    if origin is Literal:
        return " or ".join(_value(value) for value in arguments)
    if origin is list:
        return f"list of {_kind(arguments[0])}{_range(metadata)}"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    return _WORDS[annotation] + _range(metadata)


def _range(metadata: Iterable[Any]) -> str:
    said = []
    for bound in metadata:
        if getattr(bound, "min_length", None):
            said.append("not empty")
        said += [f"{words} {_amount(getattr(bound, name))}" for name, words in _BOUNDS.items() if hasattr(bound, name)]
    return " " + " and ".join(said) if said else ""


def _value(value: Any) -> str:
    """A default as a job file has it."""
    written = value if isinstance(value, str) else json.dumps(value, default=str)
    large = isinstance(value, int) and value >= _MIB and not value % _MIB
    return f"`{written}`" + (f" ({_amount(value)})" if large else "")


def _amount(value: Any) -> str:
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB")):
        if isinstance(value, int) and value >= unit and not value % unit:
            return f"{value // unit} {name}"
    return f"{value:,}"


def _sentence(model: type) -> str:
    return prose(inspect.getdoc(model) or "")


# Commands


def commands_page() -> str:
    """A page on every command, with its arguments and options."""
    blocks = [block for name, command in typer.main.get_command(app).commands.items() for block in _command(name, command)]
    return "\n\n".join(["# Commands", _COMMANDS, *blocks]) + "\n"


def _command(name: str, command: Any, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} vidtok {name} {{ #{name.replace(' ', '-')} }}"
    yield prose(inspect.cleandoc(command.help or ""))
    if hasattr(command, "commands"):
        for inner, subcommand in command.commands.items():
            yield from _command(f"{name} {inner}", subcommand, level + 1)
        return
    kinds = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option" and not parameter.hidden]
    usage = [f"vidtok {name}", *(["[OPTIONS]"] if options else []), *map(_argument, arguments)]
    yield f"```text\n{' '.join(usage)}\n```"
    rows = [(_argument(one), _meaning(one, None)) for one in arguments]
    rows += [(_option(one, kinds[one.name]), _meaning(one, kinds[one.name])) for one in options]
    yield "\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in ((f"`{a}`", b) for a, b in rows))])


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Any, annotation: Any) -> str:
    names = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    return names if option.is_flag else f"{names} {option.metavar or _plain(annotation).__name__.upper()}"


def _meaning(parameter: Any, annotation: Any) -> str:
    said = [prose(" ".join((parameter.help or "").split()))]
    kind = _plain(annotation)
    if isinstance(kind, type) and issubclass(kind, Enum):
        said.append(f"One of {', '.join(f'`{member.value}`' for member in kind)}.")
    if parameter.param_type_name == "option":
        if parameter.required:
            said.append("Required.")
        elif parameter.default not in (None, False, (), []):
            default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
            chosen = (parameter.opts if default else parameter.secondary_opts)[0] if parameter.is_flag else str(default)
            said.append(f"Default `{chosen}`.")
        if parameter.envvar:
            said.append(f"Also from the environment, `{parameter.envvar}`.")
    return " ".join(said)


def _plain(annotation: Any) -> Any:
    """The type of one value: without what typer adds, without None, and a list's member."""
    while arguments := [one for one in get_args(annotation) if one is not type(None)]:
        annotation = arguments[0]
    return annotation


# Python


def api_page(name: str) -> str:
    """What a module's `__all__` names, as mkdocstrings shows it."""
    module = importlib.import_module(name)
    intro = inspect.cleandoc(module.__doc__ or "")
    return "\n\n".join([f"# {name}", intro, *(f"::: {name}.{one}" for one in module.__all__)]) + "\n"


def prose(text: str) -> str:
    """Plain text, with code in backquotes, as Markdown that shows each character of it, in a table too."""
    return "`".join(
        part.replace("|", "&#124;") if number % 2 else re.sub(r"([\\*_<>\[\]#|~$])", r"\\\1", part)
        for number, part in enumerate(text.split("`"))
    )
