"""Shards on a web server: the dataset of the same shards on a disk, or a refusal while the job is planned."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.input_config import InputConfig
from pipeline.job import run_job
from pipeline.shards import list_shards
from pipeline.storage import open_store
from pipeline.verify import verify_dataset
from tests.integration.places import new_place, pack_small_shards, small_job
from tests.jobs_for_tests import dataset_rows, store_of
from tests.servers.web import WebServer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = small_job(shards, new_place(None, tmp_path_factory.mktemp("unbroken")))
    assert not run_job(config).failures
    return config


@pytest.mark.parametrize("ranges", [True, False])
def test_a_job_reads_from_a_web_server(
    shards: Path, unbroken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr("pipeline.storage.store.BLOCK_BYTES", 5_000)  # so that a tar is many of them
    with WebServer(shards, ranges=ranges) as server:
        config = small_job(f"{server.url}/{{0..1}}.tar", new_place(None, tmp_path))
        assert not run_job(config).failures
        assert dataset_rows(config).equals(dataset_rows(unbroken))
        verdict = verify_dataset(Dataset.open(store_of(config)), deep=True, source=open_store(server.url))
        assert (verdict.problems, verdict.uncommitted, verdict.shards) == ([], 0, 2)
    whole = [path for method, path, asked in server.requests if method == "GET" and asked is None]
    assert len(whole) == (0 if ranges else 4), "each tar for the job and for verify"


def test_an_empty_tar_is_a_reject_from_there_too(tmp_path: Path) -> None:
    (tmp_path / "0.tar").touch()
    with WebServer(tmp_path) as server:
        config = small_job(f"{server.url}/0.tar", new_place(None, tmp_path / "out"))
        assert not run_job(config).failures
    (commit,) = Dataset.open(store_of(config)).commits()
    assert (commit["rows"], commit["rejects_by_class"]) == (0, {"empty": 1})


@pytest.mark.parametrize("pattern", ["/*.tar", "/", "/{0..1}.tar", "/[0-9].tar"])
def test_an_index_page_is_a_listing(shards: Path, tmp_path: Path, pattern: str) -> None:
    """Its sizes are asked for."""
    with WebServer(shards, index=True) as server:
        found = list_shards(InputConfig(shards=server.url + pattern))
    local = list_shards(InputConfig(shards=str(shards)))
    assert [(shard.shard_id, shard.path, shard.size_bytes) for shard in found] == [
        (shard.shard_id, shard.path, shard.size_bytes) for shard in local
    ]


def test_what_cannot_work_is_refused_before_anything_is_written(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "in")
    with WebServer(tmp_path / "in", sizes=False) as server:
        config = small_job(f"{server.url}/{{0..2}}.tar", new_place(None, tmp_path / "out"))
        with pytest.raises(ConfigError) as caught:
            run_job(config)
        assert caught.value.problems == [
            f"input.shards: {server.url}/0.tar: the server does not say its size",
            f"input.shards: {server.url}/1.tar: the server does not say its size",
            f"input.shards: {server.url}/2.tar: there is no such tar",
        ]
    with WebServer(tmp_path / "in") as server:
        links = [f"{server.url}/{number}.tar?X-Amz-Signature=hunter2" for number in range(2)]
        config = config.model_copy(update={"input": config.input.model_copy(update={"shards": links})})
        with pytest.raises(ConfigError, match=r"/1\.tar: behind it a \? begins a query, .* plain link") as caught:
            run_job(config)
        assert "hunter2" not in str(caught.value) and len(caught.value.problems) == 2 and not server.requests
    assert not Path(config.output).exists()
