"""A `.ckpt` comes from strangers: foreign classes in it become stubs, and whatever could run code is refused."""

import argparse
import collections
import enum
import os
import pathlib
import pickle
import random
import subprocess
import sys
import types
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from tests.support import ROOT
from tests.vidtok_model.support import TINY_FSQ, lightning_checkpoint, save, tiny_tokenizer
from vidtok_model import load_tokenizer
from vidtok_model.ckpt_file import Stub, read_ckpt

RAN = "run by the checkpoint"


@pytest.fixture
def state():
    return {key: value.clone() for key, value in tiny_tokenizer(TINY_FSQ).state_dict().items()}


def bomb(*_: object, **__: object) -> typing.NoReturn:
    raise AssertionError(RAN)


class AttributeDict(dict):
    """As Lightning's: a dict, so pickled with its items."""


ForeignList = type("ForeignList", (list,), {})


class Plain:
    def __init__(self) -> None:
        self.x = 1


class WithSlots:
    """Its state is a pair: no dict, and the slots."""

    __slots__ = ("x",)

    def __init__(self) -> None:
        self.x = 1


class WithArguments:
    """Pickled by a call, then by a state that is no dict."""

    def __reduce__(self):
        return type(self), (1, "two"), [3]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Mode(enum.Enum):
    MIN = "min"


FOREIGN = {
    "pytorch_lightning.callbacks.model_checkpoint": [Plain, WithSlots],
    "lightning.pytorch.utilities.parsing": [AttributeDict, ForeignList, WithArguments],
    "lightning_fabric.utilities.enums": [Mode],
}


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that look as if they were Lightning's, while they are pickled; gone again, and bombs, when read."""
    for module, kinds in FOREIGN.items():
        made = types.ModuleType(module)
        for kind in kinds:
            monkeypatch.setattr(kind, "__module__", module)
            setattr(made, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, module, made)
        for parent in (module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))


def full_checkpoint(state) -> dict:
    """All that a training run may leave behind, with the objects of other libraries."""
    typed = DictConfig({"lr": 1.0}, ref_type=dict[str, float], key_type=str, element_type=float)
    return {
        **lightning_checkpoint(state),
        "hparams_name": "config",
        "hyper_parameters": OmegaConf.create(
            {"model": {"ch": 128, "mult": [1, 2, 4, 4], "on": True, "none": None, "same": "${model.ch}", "raw": b"x"}}
        ),
        "typed": [typed, ListConfig([1], element_type=int, ref_type=list[int])],
        "attributes": AttributeDict(a=1, b=AttributeDict(c=[2])),
        "callbacks": {Plain: WithSlots(), "again": [Plain(), WithArguments(), Mode.MIN]},
        "arguments": argparse.Namespace(seed=1, path=pathlib.Path("/data")),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "numbers": [np.float64(1.5), np.arange(3), frozenset({1}), {2}],
    }


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before zip"])
def test_a_full_checkpoint_with_foreign_classes_loads(state, lightning, tmp_path, as_zip):
    path = tmp_path / "full.ckpt"
    torch.save(full_checkpoint(state), path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        torch.load(path, weights_only=True)  # as torch alone has it
    loaded = load_tokenizer(TINY_FSQ, path).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_what_others_let_torch_unpickle_makes_no_difference(state, lightning, tmp_path):
    """Megatron lets it have NumPy's dtype, but not the kinds of dtype: half of that is worse than nothing."""
    path = tmp_path / "full.ckpt"
    torch.save(full_checkpoint(state), path)
    allowed = [np.dtype, np.ndarray, argparse.Namespace]
    with torch.serialization.safe_globals(allowed):
        assert load_tokenizer(TINY_FSQ, path).state_dict().keys() == state.keys()
        assert set(allowed) <= set(torch.serialization.get_safe_globals()), "and they have it again afterwards"


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before zip"])
def test_nothing_foreign_is_imported(state, lightning, tmp_path, as_zip):
    """Neither what is there (omegaconf) nor what isn't; in a process that has none of it yet."""
    path = tmp_path / "full.ckpt"
    torch.save(full_checkpoint(state), path, _use_new_zipfile_serialization=as_zip)
    program = f"""
import sys
from pathlib import Path
from vidtok_model.ckpt_file import read_ckpt
assert len(read_ckpt(Path({str(path)!r}))) > 100
print(sorted(name for name in sys.modules if name.split(".")[0] in ("omegaconf", "lightning", "pytorch_lightning")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stub_does_nothing(state, lightning, monkeypatch, tmp_path):
    """Where the foreign class is at hand, too: none of its code runs, and nothing that it is given is kept."""
    content = {"state_dict": {**state, "x": Plain(), "y": WithArguments()}, "z": [WithSlots(), AttributeDict(a=1)]}
    path = save(content, tmp_path / "stubs.ckpt")
    known = torch.serialization.get_safe_globals()
    for kind in (Plain, WithSlots, WithArguments, AttributeDict):
        for method in ("__new__", "__init__", "__setstate__", "__setattr__", "__reduce__", "__setitem__"):
            monkeypatch.setattr(kind, method, bomb, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.__import__", _no_foreign_import(__import__))
        found = read_ckpt(path)
    for name in ("x", "y"):
        assert type(found[name]) is Stub
        assert not hasattr(found[name], "__dict__"), "there is nowhere to keep anything"
    with pytest.raises(ValueError, match=r"2 not of this model \(x, y\)"):
        load_tokenizer(TINY_FSQ, path)
    assert set(torch.serialization.get_safe_globals()) == set(known), "and torch knows nothing of them afterwards"


def test_a_foreign_kind_of_list_is_refused(state, lightning, tmp_path):
    path = save({"state_dict": state, "list": ForeignList([1])}, tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list\.ckpt is refused: .*Can only append to lists"):
        load_tokenizer(TINY_FSQ, path)


def _no_foreign_import(real):
    def checked(name: str, *arguments: object, **options: object):
        assert name.split(".")[0] not in ("lightning", "pytorch_lightning", "omegaconf"), f"{RAN}: imports {name}"
        return real(name, *arguments, **options)

    return checked


def call(name: str, *arguments: str) -> bytes:
    """A pickle, protocol 2, that calls what `name` ("module name") names."""
    module, _, attribute = name.partition(" ")
    pushed = b"".join(b"X" + len(text).to_bytes(4, "little") + text.encode() for text in arguments)
    return b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"(" + pushed + b"tR."


def state_dict_beside(payload: bytes) -> bytes:
    """The pickle of {"hyper_parameters": what `payload` makes, "state_dict": {}}."""
    return b"\x80\x02}(X\x10\x00\x00\x00hyper_parameters" + payload[2:-1] + b"X\x0a\x00\x00\x00state_dict}u."


MALICIOUS = {
    "posix mkdir": ("{folder}",),
    "os mkdir": ("{folder}",),
    "os system": ("mkdir '{folder}'",),
    "nt system": ("mkdir '{folder}'",),
    "subprocess check_output": ("mkdir '{folder}'",),
    "__builtin__ eval": ("__import__('os').mkdir('{folder}')",),
    "builtins exec": ("__import__('os').mkdir('{folder}')",),
    "builtins getattr": ("os", "mkdir"),
    "builtins __import__": ("os",),
    "importlib import_module": ("os",),
    "torch.hub load": ("{folder}", "x"),
    "torch load": ("{folder}",),
    "pickle loads": ("{folder}",),
    "shutil rmtree": ("{folder}",),
    # Attributes of the packages whose classes get stubs, and names that only look as if they were theirs.
    "omegaconf os.mkdir": ("{folder}",),
    "omegaconf.os system": ("mkdir '{folder}'",),
    "omegaconf.omegaconf os.mkdir": ("{folder}",),
    "omegaconf.dictconfig eval": ("1",),
    "omegaconf OmegaConf.load": ("{folder}",),
    "lightning.pytorch.utilities.rank_zero _get_rank": (),
    "lightning.pytorch.utilities os.mkdir": ("{folder}",),
    "lightning_evil Evil": (),
    "omegaconfig.Evil Evil": (),
    "x.omegaconf.DictConfig Evil": (),
    "omegaconf.base Any;os.mkdir": ("{folder}",),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("as_zip", [True, False], ids=["torch file", "bare pickle"])
def test_a_malicious_pickle_is_refused(state, tmp_path, name, as_zip):
    folder, path = tmp_path / "made by the checkpoint", tmp_path / "evil.ckpt"
    payload = call(name, *(text.replace("{folder}", str(folder)) for text in MALICIOUS[name]))
    if as_zip:
        _replace_pickle(save({"state_dict": state}, path), state_dict_beside(payload))
    else:
        path.write_bytes(payload)
    with pytest.raises(ValueError, match=r"evil\.ckpt is refused: .* other objects can run code.*names ") as caught:
        load_tokenizer(TINY_FSQ, path)
    assert name.split()[-1].split(";")[0] in str(caught.value)
    assert not folder.exists()
    assert not any(module.startswith("omegaconf.os") for module in sys.modules)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_trap_works(state, tmp_path, protocol):
    """The same object runs where a file is trusted, and doesn't here, whatever the pickle's protocol."""

    class RunsCode:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": RunsCode()}, path, pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"evil\.ckpt is refused: .* other objects can run code"):
        load_tokenizer(TINY_FSQ, path)
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "made").exists()


def test_a_stub_cannot_be_used_to_call_or_to_reach_anything(state, tmp_path):
    """A stub's own attributes are no way on: what is built on it, or called through it, is nothing."""
    path = save({"state_dict": state}, tmp_path / "clever.ckpt")
    # An instance, then a state with names that would change its class or its methods, were they set.
    instance = b"comegaconf\nDictConfig\n)\x81"
    text = b"".join(b"X" + len(key).to_bytes(4, "little") + key + b"X\x01\x00\x00\x00x" for key in (b"__class__", b"y"))
    build = b"\x80\x02" + instance + b"N}(" + text + b"u\x86b."
    _replace_pickle(path, state_dict_beside(build))
    with pytest.raises(ValueError, match="244 missing"):
        load_tokenizer(TINY_FSQ, path)
    # The class itself is no object to build on.
    _replace_pickle(path, state_dict_beside(b"\x80\x02comegaconf\nDictConfig\n}b."))
    with pytest.raises(ValueError, match=r"clever\.ckpt is refused: .*Can only build"):
        load_tokenizer(TINY_FSQ, path)


@pytest.mark.filterwarnings("ignore")  # of torch's, of pickletools', by what was changed
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before zip"])
def test_a_damaged_file_is_an_error_of_ours(lightning, tmp_path, as_zip):
    """Whatever bytes are changed, it loads or is a ValueError that names it."""
    path = tmp_path / "damaged.ckpt"
    small = {"weight": torch.zeros(2), "loss.x": torch.zeros(1)}
    torch.save(full_checkpoint(small), path, _use_new_zipfile_serialization=as_zip)
    whole = zipfile.ZipFile(path).read("damaged/data.pkl") if as_zip else path.read_bytes()
    changes, refused = random.Random(7), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(changes.randint(1, 3)):
            damaged[changes.randrange(len(damaged))] = changes.randrange(256)
        if as_zip:
            _replace_pickle(path, bytes(damaged))
        else:
            path.write_bytes(damaged)
        try:
            read_ckpt(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


def _replace_pickle(path: Path, pickled: bytes) -> None:
    """Puts another pickle in a torch file."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else data)
