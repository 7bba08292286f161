"""The pages that are made whenever the site is built, by MkDocs calling `on_files`: the reference, and deployment.

Job files come from their models, commands from the command line's own description, and of Python what each module's
`__all__` names. Pages on deployment are those that stand beside the recipes.
"""

import dataclasses
import html
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import partial
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
Every key of a job file, as `vidtok tokenize`, `plan` and `preview` take it. A key is named by its path:
`executor.num_workers` stands in the section `executor`, and `--set executor.num_workers=4` puts it over the file.
Unknown keys are errors. `vidtok config job.yaml` prints a job with all its defaults."""
_TRAINING_JOB = """\
Every key of a file for `vidtok train`: one stage of training. `--set training.steps=100` puts a key over the file, and
unknown keys are errors."""
_COMMANDS = """\
Exit codes: 0, all is well; 1, something failed, or `verify` found a problem; 2, the command cannot run as it is, and
did nothing; 130 and 143, it was interrupted or stopped by SIGTERM, and the same command goes on."""
_MODULES = {
    "pipeline": "pipeline",
    "vidtok_model": "vidtok_model",
    "metrics": "vidtok_model.metrics",
    "preprocessing": "vidtok_model.preprocessing",
}
_WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "any value",
}
_INFRA = Path(__file__).parents[1]
_RECIPES = ("slurm", "aws", "kubernetes", "containers", "monitoring")
_METAVARS = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code, and those on deployment."""
    reference = {
        "job": job_file_page("The job file", _JOB, JobConfig),
        "training-job": job_file_page("The training job file", _TRAINING_JOB, TrainingJob),
        "commands": commands_page(),
        **{name: api_page(module) for name, module in _MODULES.items()},
    }
    pages = {f"reference/{name}.md": content for name, content in reference.items()}
    for name, content in (pages | deployment_pages()).items():
        files.append(File.generated(config, name, content=content))
    return files


# Deployment


def deployment_pages() -> dict[str, str]:
    """The pages below infra/, by where they stand in the site."""
    targets = {_INFRA / "README.md": "index.md", **{_INFRA / name / "README.md": f"{name}.md" for name in _RECIPES}}
    for page in (_INFRA / "docs/pages").glob("*.md"):
        targets[page] = f"../{page.name}"

    def link(found: re.Match[str], page: Path) -> str:
        """A link to a page of the site; of one to a file of the repository its text alone."""
        text, path, anchor = found.groups()
        target = targets.get((page.parent / path).resolve())
        return f"[{text}]({target}{anchor or ''})" if target else text

    return {
        f"deployment/{name}": re.sub(
            r"\[([^\]]+)\]\((?!\w+:)([^)\s#]+)(#[^)\s]+)?\)",
            partial(link, page=page),
            page.read_text(encoding="utf-8"),
        )
        for page, name in targets.items()
        if not name.startswith("../")
    }


# Job files


def job_file_page(title: str, intro: str, model: type[BaseModel]) -> str:
    """A page on every key of a kind of job file; the anchor of a key or a section is its path."""
    keys, sections = _contents("", model)
    return "\n\n".join([f"# {title}", intro, "## Top level { #top-level }", *keys, *sections]) + "\n"


def _contents(path: str, model: type) -> tuple[list[str], list[str]]:
    """What a page says of a model's own keys, and of the sections in it."""
    keys, sections = [], []
    for name, field in _fields(model).items():
        key = f"{path}.{name}" if path else name
        if inner := _model_in(field.annotation):
            inner_keys, inner_sections = _contents(key, inner)
            sections += [f"## {key} {{ #{key} }}", *_about_section(field, inner), *inner_keys, *inner_sections]
        else:
            keys += [f"### {key} {{ #{key} }}", *_about_key(name, field)]
    return keys, sections


def _about_section(field: FieldInfo, model: type) -> Iterator[str]:
    said = " ".join(filter(None, [inspect.getdoc(model), field.description]))
    if type(None) in get_args(field.annotation):
        yield "*section, or null*" + (", default `null`" if field.default is None else "")
    yield prose(said) + (" Required." if field.is_required() else "")


def _about_key(name: str, field: FieldInfo) -> Iterator[str]:
    default = field.get_default(call_default_factory=True)
    unit = f" ({default / 2**20:,.0f} MiB)" if name.endswith("_bytes") else ""
    said = "required" if field.is_required() else f"default {_value(default)}{unit}"
    yield f"*{_kind(field.annotation, field.metadata)}*, {said}"
    yield prose(field.description or "")


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


def _model_in(annotation: Any) -> type | None:
    """The model that a type names: itself, or a member of a union or a list."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in plain words, with the range that it is held to."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [one for field in arguments[1:] for one in getattr(field, "metadata", [field])]
        return _kind(arguments[0], [*bounds, *metadata])
    if origin in (Union, UnionType):
        members = " or ".join(_kind(member) for member in arguments if member is not type(None))
        return members + _range(metadata) + (", or null" if type(None) in arguments else "")
    if origin is Literal:
        *others, last = map(_value, arguments)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is list:
        return f"list of {_kind(arguments[0])}{_range(metadata)}"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    return _WORDS[annotation] + _range(metadata)


def _range(metadata: Sequence[Any]) -> str:
    bounds = [(words, getattr(one, name)) for one in metadata for name, words in _BOUNDS.items() if hasattr(one, name)]
    amounts = " and ".join(f"{words} {amount:,}" for words, amount in bounds)
    never_empty = any(hasattr(one, "min_length") for one in metadata)
    return (f" {amounts}" if amounts else "") + (", not empty" if never_empty else "")


def _value(value: Any) -> str:
    """As a job file has it."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


# Commands


def commands_page() -> str:
    """A page on every command, with its arguments and options."""
    blocks = [
        block for name, command in typer.main.get_command(app).commands.items() for block in _command(name, command)
    ]
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
    options = [
        parameter for parameter in command.params if parameter.param_type_name == "option" and not parameter.hidden
    ]
    usage = [f"vidtok {name}", *(["[OPTIONS]"] if options else []), *map(_argument, arguments)]
    yield f"```text\n{' '.join(usage)}\n```"
    rows = [(f"`{_argument(one)}`", _meaning(one, None)) for one in arguments]
    rows += [(_option(one, kinds[one.name]), _meaning(one, kinds[one.name])) for one in options]
    if rows:
        yield "\n".join(["| | meaning |", "|---|---|", *(f"| {given} | {meaning} |" for given, meaning in rows)])


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Any, annotation: Any) -> str:
    names = " or ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} `{_METAVARS.get(_plain(annotation), 'NAME')}`"


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
    escaped = re.sub(r"([\\*_\[\]])", r"\\\1", html.escape(text, quote=False).replace("|", "&#124;"))
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(escaped.split("`")))
