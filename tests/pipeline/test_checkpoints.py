"""The cache of checkpoints: named by what is in it, filled once, and healed where it is damaged."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints import Weights, locate_weights
from pipeline.errors import ConfigError, StorageError
from pipeline.model_config import ModelConfig
from pipeline.weights import load_weights
from tests.servers.proxy import MisbehavingProxy
from tests.servers.web import WebServer
from tests.support import ROOT
from tests.vidtok_model.support import TINY_FSQ, tiny_tokenizer
from vidtok_model import save_tokenizer

NAME = "vidtok_fsq_causal_488_4096"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "store/weights.safetensors"
    path.parent.mkdir()
    save_tokenizer(tiny_tokenizer(TINY_FSQ), path)
    return path


def located(url: object, options: dict[str, Any] | None = None) -> Weights:
    return locate_weights(ModelConfig(name=NAME, checkpoint=str(url)), options)


def load(weights: Weights) -> None:
    loaded = load_weights(TINY_FSQ, weights, device="cpu", dtype=torch.float32).state_dict()
    expected = tiny_tokenizer(TINY_FSQ).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


def contents(cache: Path) -> list[Path]:
    """The checkpoints in the cache, and whatever else lies there that is no reference to one."""
    return [path for path in cache.glob("[!.]*") if path.name != "refs"] if cache.exists() else []


class OnS3:
    """A checkpoint in a bucket."""

    def __init__(self, endpoint: str, bucket: str, key: str) -> None:
        import boto3

        self.options = {"endpoint_url": endpoint}
        self.url = f"s3://{bucket}/{key}"
        self._client = boto3.client("s3", endpoint_url=endpoint)
        self._where = {"Bucket": bucket, "Key": key}

    def put(self, data: bytes) -> None:
        self._client.put_object(**self._where, Body=data)

    def locate(self) -> Weights:
        return located(self.url, self.options)


@pytest.fixture
def on_s3(s3_endpoint: str, bucket: str, tmp_path: Path) -> OnS3:
    return OnS3(s3_endpoint, bucket, f"{tmp_path.name}/weights.safetensors")


def test_a_checkpoint_on_s3_is_fetched_once(on_s3: OnS3, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_s3.put(b"one")
    weights = on_s3.locate()
    assert weights == Weights(checkpoint=on_s3.url, identity=hashlib.sha256(b"one").hexdigest())
    (cached,) = contents(cache)
    assert cached.read_bytes() == b"one" and cached.name == f"{weights.identity}.safetensors"
    with monkeypatch.context() as patch:  # looked for again, it must come from here
        patch.setattr("pipeline.storage.reader.ObjectReader.read", _unread)
        assert on_s3.locate() == weights
    assert contents(cache) == [cached], "and nothing temporary is left"


def _unread(*_: object) -> bytes:
    raise AssertionError("it is fetched again")


def test_the_cache_is_keyed_by_what_is_in_it(tmp_path: Path, cache: Path) -> None:
    """Two URLs of one content share a file; another content in its place is another."""
    for name, data in (("a.ckpt", b"one"), ("b.ckpt", b"one"), ("c.ckpt", b"two")):
        (tmp_path / name).write_bytes(data)
    one, two = (hashlib.sha256(data).hexdigest() for data in (b"one", b"two"))
    with WebServer(tmp_path) as server:
        assert [located(f"{server.url}/{name}.ckpt").identity for name in "ab"] == [one, one]
        assert [path.name for path in contents(cache)] == [f"{one}.ckpt"]
        assert located(f"{server.url}/c.ckpt").identity == two
        assert {path.name: path.read_bytes() for path in contents(cache)} == {
            f"{one}.ckpt": b"one",
            f"{two}.ckpt": b"two",
        }
        assert len(list((cache / "refs").iterdir())) == 3
        (tmp_path / "a.ckpt").write_bytes(b"three")
        assert located(f"{server.url}/a.ckpt").identity == hashlib.sha256(b"three").hexdigest()
        assert len(contents(cache)) == 3


def test_a_worker_asks_no_store_for_what_the_cache_holds(checkpoint: Path) -> None:
    with WebServer(checkpoint.parent) as server:
        weights = located(f"{server.url}/{checkpoint.name}")
        asked = len(server.requests)
        load(weights)
        assert asked and len(server.requests) == asked
    load(weights)  # nor does it need one


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_cache_is_fetched_anew(checkpoint: Path, cache: Path, damage: str) -> None:
    whole = checkpoint.read_bytes()
    with WebServer(checkpoint.parent) as server:
        url = f"{server.url}/{checkpoint.name}"
        weights = located(url)
        (cached,) = contents(cache)
        for use in (lambda: load(weights), lambda: located(url)):
            if damage == "gone":
                cached.unlink()
            else:
                cached.write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if damage == "changed" else b""))
            use()
            assert cached.read_bytes() == whole and contents(cache) == [cached]
        (reference,) = (cache / "refs").iterdir()
        for nonsense in (b"", b"\xff\0/../x", weights.identity[:10].encode()):
            reference.write_bytes(nonsense)
            assert located(url) == weights
            assert reference.read_text() == weights.identity


def test_workers_that_begin_at_once_fetch_once(on_s3: OnS3, cache: Path) -> None:
    """All those of a node: here each has a process, which the lock is for."""
    on_s3.put(b"one" * 2**20)
    with MisbehavingProxy(on_s3.options["endpoint_url"]) as proxy:
        options = {"endpoint_url": proxy.endpoint}
        program = (
            f"from tests.pipeline.test_checkpoints import located; print(located({on_s3.url!r}, {options!r}).identity)"
        )
        environment = {**os.environ, "VIDTOK_CACHE": str(cache)}
        workers = [
            subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
            for _ in range(4)
        ]
        identities = {worker.communicate(timeout=120)[0].strip().decode() for worker in workers}
    assert identities == {hashlib.sha256(b"one" * 2**20).hexdigest()}
    assert sum("weights.safetensors" in path for path in proxy.read_paths) == 1


def test_a_replaced_checkpoint_is_fetched_anew(on_s3: OnS3, cache: Path) -> None:
    identities = []
    for data in (b"one", b"two"):
        on_s3.put(data)
        identities.append(on_s3.locate().identity)
    assert identities == [hashlib.sha256(data).hexdigest() for data in (b"one", b"two")]
    assert {path.name for path in contents(cache)} == {f"{identity}.safetensors" for identity in identities}


def test_a_download_that_breaks_off_leaves_nothing(on_s3: OnS3, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_s3.put(b"one")
    calls = iter([b"o"])

    def read(*_: object) -> bytes:
        try:
            return next(calls)
        except StopIteration:
            raise StorageError("connection reset") from None

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.storage.reader.ObjectReader.read", read)
        with pytest.raises(StorageError, match="connection reset"):
            on_s3.locate()
    assert contents(cache) == [] and list((cache / "refs").iterdir()) == []
    assert on_s3.locate().identity == hashlib.sha256(b"one").hexdigest()


def test_a_missing_object_and_a_missing_bucket(on_s3: OnS3) -> None:
    with pytest.raises(ConfigError, match=rf"model\.checkpoint: {on_s3.url}: there is no such object"):
        on_s3.locate()
    with pytest.raises(StorageError, match=r"s3://nobucket/w\.ckpt: .*bucket does not exist"):
        located("s3://nobucket/w.ckpt", on_s3.options)


def test_a_prefix_is_no_checkpoint(on_s3: OnS3) -> None:
    on_s3.put(b"one")
    with pytest.raises(ConfigError, match="there is no such object"):
        located(on_s3.url.rpartition("/")[0], on_s3.options)
    with pytest.raises(ConfigError, match="there is no such object"):
        located(on_s3.url[:-3], on_s3.options)
