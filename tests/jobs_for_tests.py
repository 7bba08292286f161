"""Small jobs over real videos, and datasets held against each other."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.job_file import parse_job
from pipeline.storage import Store, open_store
from tests.media import pack_tar
from tests.support import ROOT

__all__ = ["dataset_rows", "job", "masked_parts", "merge", "pack_real_clips", "real_clips", "store_of"]

# One part a video, so that a shard has several, and a batch that the last clips of a part do not fill.
SMALL_JOB: dict[str, Any] = {
    "model": {"name": "vidtok_fsq_causal_488_32768", "checkpoint": "random", "overrides": {"base_channels": 16}},
    "clips": {"fps": 4, "size": 64},
    "rows": {"part_bytes": 1},
    "executor": {"kind": "inline", "cpus_per_worker": 0.5, "batch_size": 2},
}


def merge(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """`left` with `right` over it, section by section."""
    merged = dict(left)
    for key, value in right.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def job(shards: Any, output: Any, **changes: Any) -> JobConfig:
    """A small job, checked."""
    raw = merge(SMALL_JOB, {"input": {"shards": str(shards)}, "output": str(output)})
    return parse_job(merge(raw, changes))


def real_clips() -> list[Path]:
    """The real clips beside the checkout; where there are none, those that the project carries."""
    beside = ROOT.parent / "shared" / "videos"
    folder = beside if beside.is_dir() else ROOT / "jobs" / "clips"
    return sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".avi", ".mpg"))


def pack_real_clips(folder: Path) -> Path:
    """Packs the real clips into at most three shards, with a caption and JSON each."""
    clips = real_clips()
    num_shards = min(3, len(clips))
    for shard in range(num_shards):
        members: list[tuple[str, Any]] = []
        for path in clips[shard::num_shards]:
            key = f"{path.stem}_{path.suffix[1:]}"
            members += [
                (f"{key}{path.suffix}", path.read_bytes()),
                (f"{key}.txt", f"The clip {path.name}."),
                (f"{key}.json", {"file": path.name}),
            ]
        pack_tar(folder / f"{shard:03d}.tar", members)
    return folder


def store_of(config: JobConfig) -> Store:
    """The store of a job's output."""
    return open_store(config.output, config.storage.output.model_dump())


def dataset_rows(config: JobConfig) -> pa.Table:
    """All committed rows of a job's dataset, in the order of the shards."""
    dataset = Dataset.open(store_of(config))
    return pa.concat_tables(pq.read_table(io.BytesIO(dataset.store.read(path))) for path in dataset.parts())


def masked_parts(config: JobConfig) -> dict[str, bytes]:
    """The bytes of every committed part, but for the attempt's id in its footer."""
    dataset = Dataset.open(store_of(config))
    masked = re.compile(rb'("attempt_id": ")[0-9a-f]{32}')
    return {path: masked.sub(rb"\1-", dataset.store.read(path)) for path in dataset.parts()}


def commits_without_hashes(config: JobConfig) -> list[dict[str, Any]]:
    """The commits of a dataset, but for the sha256 of the parts, which their attempts' ids change."""
    commits = list(Dataset.open(store_of(config)).commits())
    for commit in commits:
        for part in commit["parts"]:
            del part["sha256"]
    return json.loads(json.dumps(commits))
