"""Checkpoints on the Hugging Face Hub, for which a small server stands in.

Each look-up has a process of its own: `huggingface_hub` reads HF_ENDPOINT once, when it is imported, and the tests' own
process is to reach no hub (HF_HUB_OFFLINE).
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.hub import Hub
from tests.support import ROOT, require

REPO, FILE = "microsoft/VidTok", "checkpoints/vidtok_kl_causal_488_4chn.ckpt"
URL = f"hf://{REPO}/{FILE}"
TOKEN = "hf_notforanybodyelse"

PROGRAM = """
import json, sys
from pipeline.checkpoints import locate_weights
from pipeline.model_config import ModelConfig
from pipeline.errors import VidtokError
options = json.loads(sys.argv[1])
for url in sys.argv[2:]:
    try:
        found = locate_weights(ModelConfig(name="vidtok_kl_causal_488_4chn", checkpoint=url), options)
        print(json.dumps(["found", found.identity]))
    except VidtokError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""

Locate = Callable[..., list[list[str]]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = importlib.util.find_spec("huggingface_hub") is not None
    require("datasets", found, "no huggingface_hub, which comes with it")
    with Hub() as hub:
        hub.put(REPO, FILE, b"weights")
        yield hub


@pytest.fixture
def locate(hub: Hub, tmp_path: Path) -> Locate:
    """Looks for checkpoints; gives for each `found` and its sha256, or the error's kind and what it says."""

    def run(*urls: str, options: Any = None, program: str = PROGRAM, **environment: str) -> list[list[str]]:
        ours = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": f"{tmp_path}/hf"}
        command = [sys.executable, "-c", program, json.dumps(options or {"retry_seconds": 0}), *urls]
        cache = {"VIDTOK_CACHE": f"{tmp_path}/cache"}
        environment = {**os.environ, **ours, **cache, **environment}
        # Shorter than what is tried again for in a test that is to see nothing tried again.
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr and "hunter2" not in done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_checkpoint_on_the_hub_is_fetched_once(hub: Hub, locate: Locate) -> None:
    assert locate(URL) == [["found", sha256(b"weights")]]
    assert hub.fetched() == 1
    assert locate(URL, URL) == 2 * [["found", sha256(b"weights")]]
    assert hub.fetched() == 1


def test_a_replaced_file_and_another_revision_are_fetched_anew(hub: Hub, locate: Locate) -> None:
    """Also where the size is the same: the hub says which blob it is."""
    hub.put(REPO, FILE, b"branch!", revision="v2")
    at_v2 = URL.replace(REPO, f"{REPO}@v2")
    assert locate(URL, at_v2) == [["found", sha256(b"weights")], ["found", sha256(b"branch!")]]
    hub.put(REPO, FILE, b"another")
    assert locate(URL, at_v2) == [["found", sha256(b"another")], ["found", sha256(b"branch!")]]
    assert hub.fetched() == 3


def test_what_reaches_the_videos_is_not_for_the_hub(hub: Hub, locate: Locate) -> None:
    """The address of an S3 server, and reading it without credentials; the token is the environment's."""
    options = {"endpoint_url": "http://127.0.0.1:1", "anon": True, "region": "x", "profile": "y", "retry_seconds": 0}
    hub.private.add(REPO)
    assert locate(URL, options=options, HF_TOKEN=TOKEN) == [["found", sha256(b"weights")]]
    assert all(token for _, path, token in hub.requests if path.startswith(f"/api/models/{REPO}"))
    # Where the hub sends one on to is another host's in earnest; here it is the same, so the token may go along.
    assert any(token for _, path, token in hub.requests if "/resolve/" in path)


def test_what_is_not_there(hub: Hub, locate: Locate) -> None:
    hub.put("somebody/private", FILE, b"secret")
    hub.private.add("somebody/private")
    urls = [
        f"hf://{REPO}/checkpoints/none.ckpt",
        f"hf://{REPO}/none/none.ckpt",
        f"hf://{REPO}@v9/{FILE}",
        f"hf://somebody/nothing/{FILE}",
        f"hf://somebody/private/{FILE}",
    ]
    said = locate(*urls)
    assert said == [
        [
            "ConfigError",
            f"model.checkpoint: {url}: there is no such object (where it is private, a token goes into HF_TOKEN)",
        ]
        for url in urls
    ]
    assert locate(*urls, HF_TOKEN=TOKEN)[:4] == said[:4]


def test_a_gated_file_is_there_for_others(hub: Hub, locate: Locate) -> None:
    hub.gated.add(REPO)
    for environment in ({}, {"HF_TOKEN": TOKEN}):
        [[kind, said]] = locate(URL, **environment)
        assert kind == "StorageError"
        assert said.startswith(f"cannot read {URL}: GatedRepoError: 403 Client Error.") and "\n" not in said
    hub.closed.add(REPO)
    [[kind, said]] = locate(URL)
    assert kind == "StorageError" and said.startswith(f"cannot look for {URL}: GatedRepoError: 403 Client Error.")


@pytest.mark.parametrize("odd", [f"hf://a/b@/{FILE}", "hf://a--b/..c/x.ckpt"])
def test_an_odd_address_is_told(locate: Locate, odd: str) -> None:
    [[kind, said]] = locate(odd)
    assert kind == "StorageError" and odd in said


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: Hub, locate: Locate) -> None:
    hub.failing[:] = [503, 503]
    assert locate(URL, options={"retry_seconds": 20}) == [["found", sha256(b"weights")]]
    hub.failing[:] = [403] * 20  # for good
    [[kind, said]] = locate(URL, options={"retry_seconds": 20})
    assert kind == "StorageError" and "403" in said and len(hub.failing) > 15


def test_a_hub_that_is_not_there(locate: Locate) -> None:
    [[kind, said]] = locate(URL, HF_ENDPOINT="http://127.0.0.1:1")
    assert kind == "StorageError" and URL in said and "onnect" in said
    [[kind, said]] = locate(URL, options={"retry_seconds": 100}, HF_HUB_OFFLINE="1")
    assert kind == "StorageError" and "HF_HUB_OFFLINE" in said


def test_the_package_that_is_missing_is_named(hub: Hub, locate: Locate) -> None:
    [[kind, said]] = locate(URL, program="import sys; sys.modules['huggingface_hub'] = None\n" + PROGRAM)
    assert kind == "ConfigError" and "pip install 'vidtok-pipeline[hf]'" in said and hub.requests == []


def test_a_job_reads_its_weights_from_the_hub(hub: Hub, locate: Locate, tmp_path: Path) -> None:
    """The model that comes of it is the one that was put there."""
    from tests.vidtok_model.support import TINY_KL, tiny_tokenizer
    from vidtok_model import save_tokenizer

    save_tokenizer(tiny_tokenizer(TINY_KL), tmp_path / "x.safetensors")
    hub.put(REPO, "x.safetensors", (tmp_path / "x.safetensors").read_bytes())
    program = """
import json, sys, torch
from pipeline.checkpoints import Weights
from pipeline.weights import load_weights
from tests.vidtok_model.support import TINY_KL, tiny_tokenizer
weights = Weights(checkpoint=sys.argv[2], identity=sys.argv[3])
loaded = load_weights(TINY_KL, weights, device="cpu", dtype=torch.float32).state_dict()
expected = tiny_tokenizer(TINY_KL).state_dict()
print(json.dumps([len(loaded), sum(torch.equal(value, expected[name]) for name, value in loaded.items())]))
"""
    identity = sha256((tmp_path / "x.safetensors").read_bytes())
    [[names, equal]] = locate(f"hf://{REPO}/x.safetensors", identity, program=program)
    assert names == equal > 100
