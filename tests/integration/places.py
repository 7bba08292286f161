"""Stores to write datasets to, each a real one; jobs that die in a process of their own; what must come of them."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset
from pipeline.job import run_job
from pipeline.job_file import parse_job
from pipeline.shards import input_root
from pipeline.snapshots import newest_snapshot
from pipeline.storage import open_store
from pipeline.verify import verify_dataset
from tests.jobs_for_tests import commits_without_hashes, dataset_rows, job, masked_parts, store_of
from tests.media import gradient_frames, make_video, pack_tar

__all__ = [
    "OutputPlace",
    "assert_equal",
    "assert_whole",
    "new_place",
    "pack_small_shards",
    "run_in_child",
    "small_job",
    "unbroken_job",
]

_numbers = itertools.count()
# Forks from a process that has imported all, and started no thread yet.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pipeline.job", "s3fs", "tests.jobs_for_tests"])


@dataclass(frozen=True)
class OutputPlace:
    """Where datasets go."""

    storage: dict[str, Any]
    new_root: Callable[[], str]


def new_place(endpoint: str | None, folder: Path) -> OutputPlace:
    """Datasets in the bucket `corpus` of an S3 server, or in a local folder."""
    name = f"{folder.name}-{next(_numbers)}"
    if endpoint is None:
        return OutputPlace({}, lambda: str(folder / f"{name}-{next(_numbers)}"))
    return OutputPlace({"output": {"endpoint_url": endpoint}}, lambda: f"s3://corpus/{name}-{next(_numbers)}")


def pack_small_shards(folder: Path, num_shards: int = 2) -> Path:
    """Shards of three videos and one that is none."""
    data = make_video(gradient_frames(20))
    for number in range(num_shards):
        videos: list[tuple[str, Any]] = [(f"v{video}.mp4", data) for video in range(3)]
        pack_tar(folder / f"{number}.tar", [*videos[:2], ("bad.mp4", b"no video"), *videos[2:]])
    return folder


def small_job(shards: Path, place: OutputPlace, root: str | None = None, **changes: Any) -> Any:
    """A job of many small parts over `pack_small_shards`."""
    clips = {"fps": None, "size": 16}
    return job(shards, root or place.new_root(), clips=clips, storage=place.storage, **changes)


def unbroken_job(shards: Path, folder: Path) -> Any:
    """The same job, done on the local disk in one go: what all others are held against."""
    config = small_job(shards, new_place(None, folder))
    assert not run_job(config).failures
    return config


def assert_equal(config: Any, unbroken: Any) -> None:
    """The same rows, parts and commits but for times and attempts; in the snapshot too."""
    assert dataset_rows(config).equals(dataset_rows(unbroken))
    assert masked_parts(config) == masked_parts(unbroken)
    assert commits_without_hashes(config) == commits_without_hashes(unbroken)
    dataset = Dataset.open(store_of(config))
    assert set(newest_snapshot(dataset.store).ids.to_pylist()) == {shard.shard_id for shard in dataset.inputs()}


def assert_whole(config: Any, unbroken: Any) -> None:
    """Equal, and with nothing else."""
    assert_equal(config, unbroken)
    dataset = Dataset.open(store_of(config))
    source = open_store(input_root(config.input), config.storage.input.model_dump())
    verdict = verify_dataset(dataset, deep=True, source=source)
    assert (verdict.problems, verdict.uncommitted, verdict.shards) == ([], 0, len(commits_without_hashes(unbroken)))


def _child(raw: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    failures = run_job(parse_job(raw)).failures
    assert not failures, failures


def start_child(config: Any, environment: Mapping[str, str]) -> Any:
    """Starts a job in a process of its own."""
    raw = config.model_dump(mode="json")
    process = _processes.Process(target=_child, args=(raw, dict(environment)))
    process.start()
    return process


def run_in_child(config: Any, environment: Mapping[str, str]) -> int:
    """Runs a job in a process of its own; returns how it ended (-9: it was killed)."""
    process = start_child(config, environment)
    process.join(timeout=300)
    return int(process.exitcode)
