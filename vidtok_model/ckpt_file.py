"""A `.ckpt` read without running what it may hold: tensors and numbers come out, everything else stays shut."""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# Classes of the libraries that checkpoints are trained with. By their capital, so that no function has a place here;
# that would be harmless, since no name is ever looked up, but a file that names one is no checkpoint of theirs.
_FOREIGN = re.compile(
    r"(lightning|pytorch_lightning|lightning_fabric|lightning_utilities|omegaconf)(\.\w+)*\._*[A-Z]\w*", re.ASCII
)
# What the pickles of those (and of the arguments that Lightning keeps) name besides.
_HARMLESS = {
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "str", "tuple")),
    *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.dtype", "numpy.ndarray"),
    *("_operator.getitem", "operator.getitem"),  # how a type such as typing.Dict[str, int] is pickled
    *("argparse.Namespace", "collections.defaultdict"),
}
# Kinds of dict: torch fills plain containers only, so their place is taken by one.
_MAPPING = re.compile(r"collections\.defaultdict|.*\.AttributeDict")

_ZIP_MAGIC = b"PK\x03\x04"
# A file from before torch wrote zips: a magic number, a version, the machine's types and the content, one pickle each.
_PICKLES_BEFORE_ZIP = 4


class Stub:
    """Stands where a checkpoint names a foreign class; does nothing, and keeps nothing of what it is given."""

    __slots__ = ()

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        """Takes any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Takes any state."""


class _MappingStub:
    """The same for a kind of dict: what comes of it is a plain one, with the items that follow."""

    def __new__(cls, *args: object, **kwargs: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Takes any arguments."""
        return OrderedDict()


def read_ckpt(path: Path) -> Mapping[str, Any]:
    """The weights by name that a `.ckpt` holds, or whatever else stands in their place.

    Args:
        path: A file that `torch.save` wrote: weights by name, or a dict with these as its `state_dict`, as Lightning
            writes it. Objects of Lightning's and OmegaConf's classes in it become stubs; nothing is imported.

    Raises:
        ValueError: If the file names anything else that could run code, can't be read, or holds no dict.
    """
    try:
        with _nothing_allowed():
            stubs = [(_MappingStub if _MAPPING.fullmatch(name) else Stub, name) for name in _harmless_names(path)]
            with torch.serialization.safe_globals(stubs):  # type: ignore[arg-type]
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} is refused: it isn't a torch file of plain tensors and numbers, which alone are read, "
            f"because other objects can run code; save its state_dict alone, best as .safetensors ({_reason(error)})"
        ) from error
    # torch.load lets through whatever its parsers raise on a file that is no checkpoint, or a truncated one.
    except (
        *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError),
        *(ValueError, struct.error, zipfile.BadZipFile),
    ) as error:
        raise ValueError(f"checkpoint {path} can't be read as a torch file: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path} holds a {type(state).__name__}: expected weights by name")
    return state


@contextmanager
def _nothing_allowed() -> Iterator[None]:
    """Without the classes that others in this process let torch unpickle, as Megatron does with some of NumPy."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def _harmless_names(path: Path) -> set[str]:
    """Those of the globals that a file names for which a stub may stand; found without unpickling anything."""
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else _names_before_zip(path)
    return {name for name in names if name in _HARMLESS or _FOREIGN.fullmatch(name)}


def _names_before_zip(path: Path) -> set[str]:
    names = set()
    with path.open("rb") as file:
        for _ in range(_PICKLES_BEFORE_ZIP):
            if not file.peek(1):  # a bare pickle, which torch.load then refuses
                break
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    # Under the names of Python 2, as torch.load takes them.
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    names.add(f"{module}.{name}")
    return names


def _reason(error: pickle.UnpicklingError) -> str:
    """What torch refused, of a message that also says how to run it all the same."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"it names {named[1]}"
    said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return said.splitlines()[0] if said else "unreadable"
