"""Datasets of made-up rows, committed as a job commits them, without videos or models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import Dataset, fingerprint
from pipeline.inputs import grow_inputs
from pipeline.parts import table_bytes
from pipeline.records import Batch, Clip, EncodedClip, Position, Reject, Shard, SourceInfo, VideoEnd, VideoRef
from pipeline.rows import build_rows, row_schema
from pipeline.shard_log import ShardLog
from pipeline.snapshots import add_to_snapshot, newest_snapshot
from pipeline.storage import open_store
from vidtok_model import get_config

__all__ = ["GRID", "made_rows", "rejected_videos", "row_groups_of", "table_of", "token_of"]

GRID = (2, 3, 4)
_FRAMES = np.broadcast_to(np.uint8(0), (5, 16, 16, 3))
_SOURCE = SourceInfo(width=64, height=48, fps=25.0, codec="h264")


@contextmanager
def row_groups_of(rows: int) -> Iterator[None]:
    """Parts that are made meanwhile have row groups of so many rows."""

    def groups(table: pa.Table, footer: Any = None) -> bytes:
        return table_bytes(table, footer, row_group_bytes=-(-table.nbytes * rows // max(1, table.num_rows)))

    with mock.patch("pipeline.parts.table_bytes", groups):
        yield


def table_of(dataset: Dataset) -> pa.Table:
    """All rows that lie in the dataset's committed parts, with their places: `part`, `row_group`, `number`."""
    tables = []
    for path in dataset.parts():
        with pq.ParquetFile(pa.BufferReader(dataset.store.read(path))) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group).replace_schema_metadata(None)
                places = {"part": [path] * len(table), "row_group": [group] * len(table), "number": range(len(table))}
                for name, values in places.items():
                    table = table.append_column(name, pa.array(values, pa.string() if name == "part" else pa.int64()))
                tables.append(table)
    return pa.concat_tables(tables)


def token_of(number: int) -> int:
    """The first token of the row of that number in the dataset: all differ."""
    return number * 7 % 4096


def made_rows(
    root: Path,
    *,
    shards: int = 3,
    parts: int = 2,
    videos: int = 4,
    clips: int = 3,
    grids: Sequence[tuple[int, int, int]] = (GRID,),
    model: str = "vidtok_fsq_causal_488_4096",
    first_shard: int = 0,
    logvar: bool = False,
    captions: bool = True,
) -> Dataset:
    """Commits shards of `parts` parts of `videos` videos of `clips` clips each, and a snapshot.

    A row's clip is named by its video; rows have the shapes `grids` in turns. Tokens count up from `token_of` the row's
    number; latents are drawn by it.
    """
    config = get_config(model)
    plan = {"logvar": logvar, "clips": {"mode": "windows"}, "model": {"config": config.to_dict(), "weights": "w"}}
    description = {
        "fingerprint": fingerprint(plan),
        "plan": plan,
        "model": {"name": model, "checkpoint": "random", "weights": "w", "seed": 0, "config": config.to_dict()},
    }
    store = open_store(str(root))
    dataset = Dataset.create(store, description)
    numbers = range(first_shard, first_shard + shards)
    listed = [
        Shard(shard_id=f"s{number}-{number:010x}", path=f"{number}.tar", size_bytes=1, etag=None) for number in numbers
    ]
    grow_inputs(store, lambda standing: [shard for shard in listed if shard not in list(standing)])
    schema = row_schema(is_discrete=config.is_discrete, logvar=logvar)
    provenance = {name: description[name] for name in ("fingerprint", "model")}
    commits = []
    for shard in listed:
        log = ShardLog(store, shard, schema=schema, provenance=provenance, attempt_id="a" * 32)
        for batch, encoded in _batches(shard, parts, videos, clips, grids, config, captions):
            (part,) = build_rows([(batch, encoded)], logvar=logvar)
            log.append(part)
        commits.append(log.commit())
    add_to_snapshot(store, commits, newest_snapshot(store))
    return dataset


def rejected_videos(dataset: Dataset, shard_id: str, errors: Sequence[str], *, path: str | None = None) -> None:
    """Commits a shard all of whose videos were rejected, with these classes, and adds it to the snapshot."""
    shard = Shard(shard_id=shard_id, path=path or f"{shard_id}.tar", size_bytes=1, etag=None)
    provenance = {name: dataset.description[name] for name in ("fingerprint", "model")}
    schema = row_schema(is_discrete=True, logvar=False)
    log = ShardLog(dataset.store, shard, schema=schema, provenance=provenance, attempt_id="b" * 32)
    ends = []
    for number, error in enumerate(errors):
        ref = VideoRef(
            shard_id=shard_id, source_shard=shard.path, key=f"v{number}", occurrence=0, size_bytes=1, text={}
        )
        reject = Reject(stage="decode", error=error, message="no")
        ends.append(VideoEnd(ref=ref, reject=reject, end=Position(sample=number + 1, offset=number + 1)))
    (part,) = build_rows([(Batch(clips=[], ends=ends, closes_part=True), [])], logvar=False)
    log.append(part)
    add_to_snapshot(dataset.store, [log.commit()], newest_snapshot(dataset.store))


def _batches(
    shard: Shard, parts: int, videos: int, clips: int, grids: Any, config: Any, captions: bool
) -> Iterator[Any]:
    number = int(shard.path.removesuffix(".tar")) * parts * videos * clips
    sample = 0
    for _ in range(parts):
        made, encoded, ends = [], [], []
        for _ in range(videos):
            ref = VideoRef(
                shard_id=shard.shard_id, source_shard=shard.path, key=f"v{sample}", occurrence=0, size_bytes=1,
                text={"txt": f"Caption of {shard.path} {sample}."} if captions else {},
            )  # fmt: skip
            sample += 1
            for index in range(clips):
                made.append(Clip(
                    ref=ref, source=_SOURCE, clip_index=index, frames_THWC=_FRAMES, duration_seconds=0.5,
                    frame_seconds=np.arange(5) / 10 + index, num_padded_frames=0, flags=(),
                ))  # fmt: skip
                grid = grids[number % len(grids)]
                encoded.append(_encoded(config, grid, number))
                number += 1
            ends.append(VideoEnd(ref=ref, reject=None, end=Position(sample=sample, offset=sample)))
        yield Batch(clips=made, ends=ends, closes_part=True), encoded


def _encoded(config: Any, grid: tuple[int, int, int], number: int) -> EncodedClip:
    if config.is_discrete:
        tokens = np.arange(np.prod(grid), dtype=np.int32).reshape(grid) + token_of(number)
        return EncodedClip(tokens_THW=tokens % config.codebook_size)
    draw = np.random.default_rng(number).standard_normal((2, config.latent_channels, *grid)).astype(np.float32)
    return EncodedClip(latents_CTHW=draw[0], logvar_CTHW=draw[1])
