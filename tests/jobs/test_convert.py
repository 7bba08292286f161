"""`vidtok convert`: a checkpoint from anywhere becomes a .safetensors that says which model it is of."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import safetensors
import torch
from omegaconf import OmegaConf

from tests.jobs.conftest import Cli
from tests.servers.web import WebServer
from tests.vidtok_model.support import TINY_FSQ, TINY_KL, lightning_checkpoint, save, tiny_tokenizer
from vidtok_model import MODELS, load_tokenizer, random_tokenizer, read_config, save_tokenizer

NAME, TWIN = "vidtok_kl_causal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"
NARROW = {name: config.replace(base_channels=8) for name, config in MODELS.items()}


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vidtok: Cli) -> Cli:
    """Runs the command in this process, where the released models are narrow ones."""
    monkeypatch.setenv("VIDTOK_CACHE", str(tmp_path / "cache"))
    for module in ("vidtok_model.models", "vidtok_model.checkpoint", "pipeline.weights"):
        monkeypatch.setattr(f"{module}.MODELS", NARROW)
    return partial(vidtok, "convert")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Of two dtypes."""
    weights = random_tokenizer(NARROW[NAME], seed=5).state_dict()
    return {name: value.half() if name.startswith("encoder.") else value for name, value in weights.items()}


@pytest.fixture
def checkpoint(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """As training leaves it, with an object of another library."""
    content = {**lightning_checkpoint(state), "hyper_parameters": OmegaConf.create({"lr": 1e-4, "mult": [1, 2]})}
    return save(content, tmp_path / f"{NAME}.ckpt")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_convert(convert: Cli, checkpoint: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    done = convert(checkpoint, target)
    assert done.code == 0, done.err
    assert f"Wrote {len(state)} weights of {NAME} (" in done.out and f") to {target}\n" in done.out
    assert f"source sha256 {sha256(checkpoint)}\n" in done.out
    with safetensors.safe_open(target, framework="pt") as file:
        header = file.metadata()
        assert set(file.keys()) == set(state), "loss.* and model_ema.* are left out"
        for name, value in state.items():
            assert file.get_tensor(name).dtype == value.dtype and torch.equal(file.get_tensor(name), value)
    assert header["vidtok.name"] == NAME and header["vidtok.source_sha256"] == sha256(checkpoint)
    assert json.loads(header["vidtok.config"]) == NARROW[NAME].to_dict()
    assert load_tokenizer(None, target).config == NARROW[NAME]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", checkpoint.name]


def test_the_name_comes_from_the_header_the_file_or_the_option(convert: Cli, checkpoint: Path, tmp_path: Path) -> None:
    first, second, target = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "target"))
    assert convert(checkpoint, first, "--model", TWIN).code == 0
    assert read_config(first) == NARROW[TWIN], "the option is more than the file's name"
    assert convert(first, second).code == 0
    assert read_config(second) == NARROW[TWIN]
    misnamed = first.rename(tmp_path / f"{NAME}.safetensors")
    assert convert(misnamed, target).code == 0
    assert read_config(target) == NARROW[TWIN], "the header is more than the file's name"
    refused = convert(misnamed, target, "--model", NAME)
    assert refused.code == 2 and f"{misnamed} is of {TWIN}, not of {NAME}: " in refused.err
    save_tokenizer(tiny_tokenizer(TINY_FSQ), first)  # a model that was never released
    assert convert(first, target).code == 0
    assert read_config(target) == TINY_FSQ


def test_a_checkpoint_behind_a_link(convert: Cli, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    with WebServer(tmp_path) as server:
        url = f"{server.url}/{checkpoint.name}?X-Amz-Signature=hunter2"
        assert convert(url, target).code == 0
        assert read_config(target) == NARROW[NAME]
        refused = convert(url, target, "--model", "vidtok_kl_causal_488_8chn")
    assert refused.code == 2 and "hunter2" not in refused.err
    shown = f"{server.url}/{checkpoint.name} (here as {tmp_path}/cache/{sha256(checkpoint)}.ckpt)"
    assert f"convert: {shown} doesn't fit vidtok_kl_causal_488_8chn: " in refused.err
    assert f"it holds the weights of {NAME} or {TWIN}" in refused.err


def test_what_is_refused(convert: Cli, checkpoint: Path, tmp_path: Path) -> None:
    unnamed = checkpoint.rename(tmp_path / "last.ckpt")
    target = tmp_path / "model.safetensors"
    tiny = save(tiny_tokenizer(TINY_KL).state_dict(), tmp_path / "tiny.safetensors")
    cases = [
        ((unnamed, target), f"{unnamed} does not say which model it is of, and last is no released model's name: give"),
        ((unnamed, tmp_path / "model.ckpt"), "model.ckpt: expected a file that ends in .safetensors"),
        ((unnamed, tmp_path / "none/model.safetensors"), f"there is no folder {tmp_path}/none"),
        ((unnamed, target, "--model", "vidtok"), "unknown model 'vidtok'"),
        ((tmp_path / "none.ckpt", target), f"convert: {tmp_path}/none.ckpt: there is no such file"),
        ((tiny, target, "--model", NAME), f"{tiny} doesn't fit {NAME}: "),
    ]
    for arguments, message in cases:
        refused = convert(*arguments)
        assert refused.code == 2 and message in refused.err, refused.err
    assert not target.exists()
