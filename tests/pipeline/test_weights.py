"""Weights come from anywhere, and are checked by what is in them."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.checkpoints import Weights, locate_weights
from pipeline.errors import ConfigError, StorageError
from pipeline.model_config import ModelConfig
from pipeline.weights import load_weights
from tests.servers.web import WebServer
from vidtok_model import (
    CARRIED,
    MODELS,
    TokenizerConfig,
    VideoTokenizer,
    carried_weights,
    load_tokenizer,
    random_tokenizer,
)

NAME = "vidtok_fsq_causal_488_4096"
FULL = MODELS[NAME]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def narrow() -> TokenizerConfig:
    return FULL.replace(base_channels=16)


@pytest.fixture(scope="module")
def tokenizer(narrow: TokenizerConfig) -> VideoTokenizer:
    return random_tokenizer(narrow, seed=3)


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer: VideoTokenizer) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(tokenizer.state_dict(), path)
    return path


def located(url: object, options: dict[str, Any] | None = None) -> Weights:
    return locate_weights(ModelConfig(name=NAME, checkpoint=str(url)), options)


def load(config: TokenizerConfig, weights: Weights, **options: Any) -> VideoTokenizer:
    return load_weights(config, weights, **{"device": "cpu", "dtype": torch.float32, **options})


def test_random_weights_follow_from_their_seed(narrow: TokenizerConfig) -> None:
    model = ModelConfig(name=NAME, checkpoint="random", seed=3, overrides={"base_channels": 16})
    weights = locate_weights(model)
    assert (weights.is_random, weights.identity) == (True, "seed 3")
    ours, expected = load(narrow, weights).state_dict(), random_tokenizer(narrow, seed=3).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    assert locate_weights(ModelConfig(name=NAME, checkpoint="random")).identity == "seed 0"


def test_a_local_file_is_known_by_its_content(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert located(checkpoint) == Weights(checkpoint=str(checkpoint), identity=expected)
    monkeypatch.chdir(checkpoint.parent)
    assert located("weights.safetensors") == located(checkpoint)


def test_a_small_model_brings_its_own() -> None:
    (name, config), *_ = CARRIED.items()
    model = ModelConfig(name=name)
    assert model.checkpoint == f"carried://{name}" == ModelConfig.model_validate(model.model_dump()).checkpoint
    weights = locate_weights(model)
    assert weights.identity == hashlib.sha256(carried_weights(name).read_bytes()).hexdigest()
    ours, expected = load(config, weights).state_dict(), load_tokenizer(name).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in expected.items())
    with pytest.raises(ConfigError, match=r"carried://\w+ has sha256 \w+, expected other"):
        load(config, replace(weights, identity="other"))
    with pytest.raises(ConfigError, match=f"model.checkpoint: no weights are carried for {NAME}, only for {name} and"):
        located(f"carried://{NAME}")


@pytest.mark.parametrize("name", ["none.ckpt", "", "folder"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"model\.checkpoint: /.*: there is no such file"):
        located(tmp_path / name)


def test_other_content_than_was_found_is_refused(checkpoint: Path, narrow: TokenizerConfig) -> None:
    weights = located(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes() + b" ")
    with pytest.raises(
        ConfigError, match=rf"model\.checkpoint: {checkpoint} has sha256 \w{{64}}, expected {weights.identity}"
    ):
        load(narrow, weights)


def test_the_weights_may_lie_elsewhere_now(checkpoint: Path, tmp_path: Path) -> None:
    weights = located(checkpoint)
    moved = checkpoint.rename(tmp_path / "moved.safetensors")
    with pytest.raises(ConfigError, match="there is no such file"):
        load(FULL, weights)
    # That they are found and are the same ones is told by the next complaint: they are too narrow for the real model.
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: {moved} doesn't fit {NAME}"):
        load(FULL, weights, checkpoint=str(moved))


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "kl.safetensors"
    save_file(
        random_tokenizer(MODELS["vidtok_kl_causal_488_4chn"].replace(base_channels=16), seed=0).state_dict(), path
    )
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: {path} doesn't fit {NAME}: of \d+ weights"):
        load(FULL, located(path))


@pytest.mark.parametrize("name", ["w.ckpt", "w.safetensors", "w.pt"])
def test_garbage_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: checkpoint {tmp_path}/{name}"):
        load(FULL, located(tmp_path / name))


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[str]:
    """Serves tmp_path; a path of three digits is answered with that status."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def send_head(self) -> Any:
            status = self.path.partition("?")[0].strip("/")
            return self.send_error(int(status)) if status.isdigit() else super().send_head()  # type: ignore[func-returns-value]

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("query", ["", "?X-Amz-Credential=AKIA/2024/s3&X-Amz-Signature=hunter2.x"])
def test_a_checkpoint_behind_a_link(web_server: str, checkpoint: Path, cache: Path, query: str) -> None:
    """A presigned link's signature neither confuses nor is kept."""
    url = f"{web_server}/{checkpoint.name}"
    weights = located(url + query)
    assert weights == Weights(checkpoint=url, identity=located(checkpoint).identity)
    (cached,) = cache.glob("*.safetensors")
    assert cached.name == f"{weights.identity}.safetensors"
    assert not any(
        "hunter2" in str(path) or b"hunter2" in path.read_bytes() for path in cache.rglob("*") if path.is_file()
    )
    with pytest.raises(ConfigError, match=rf"checkpoint: {url} \(here as {cached}\) doesn't fit {NAME}"):
        load(FULL, weights, checkpoint=url + query)
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: {url}x: there is no such object"):
        located(url + "x" + query)


@pytest.mark.parametrize("query", ["", "?X-Amz-Signature=hunter2"])
@pytest.mark.parametrize(("status", "said"), [(403, "Forbidden"), (401, "Unauthorized"), (503, "Service Unavailable")])
def test_a_link_that_is_refused_is_not_one_to_nothing(web_server: str, query: str, status: int, said: str) -> None:
    with pytest.raises(StorageError, match=rf"{web_server}/{status}: .*{status}, message='{said}'") as caught:
        located(f"{web_server}/{status}{query}", {"retry_seconds": 0})
    assert "hunter2" not in str(caught.value)
    for gone in (404, 410):
        with pytest.raises(ConfigError, match=rf"{web_server}/{gone}: there is no such object"):
            located(f"{web_server}/{gone}{query}")


def test_a_link_to_a_server_that_is_not_there() -> None:
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:1/w\.ckpt: .*Cannot connect") as caught:
        located("http://127.0.0.1:1/w.ckpt?X-Amz-Signature=hunter2", {"retry_seconds": 0})
    assert "hunter2" not in str(caught.value)


def test_a_link_without_a_size(checkpoint: Path) -> None:
    """Nobody could tell whether all of it came."""
    with WebServer(checkpoint.parent, sizes=False) as server:
        url = f"{server.url}/{checkpoint.name}"
        with pytest.raises(StorageError, match=rf"cannot open {url}: the server does not say its size"):
            located(url)


def test_garbage_behind_a_link_is_named_by_the_link(web_server: str, tmp_path: Path) -> None:
    (tmp_path / "w.ckpt").write_bytes(b"garbage")
    url = f"{web_server}/w.ckpt"
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: checkpoint {url} \(here as ") as caught:
        load(FULL, located(url), checkpoint=f"{url}?X-Amz-Signature=hunter2")
    assert "hunter2" not in str(caught.value)
