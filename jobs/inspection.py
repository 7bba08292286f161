"""Looking into a dataset: what it holds, and single rows decoded."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from jobs.display import human_bytes
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.inputs import base_shard_id
from pipeline.reading.parts import PartReader
from pipeline.reconstruct import decode_found, load_decoder
from pipeline.rejected import outstanding_rejects
from pipeline.row_scan import find_stream, groups_of, groups_of_part, scan
from pipeline.row_sets import REMOVED, Rows, read_rows
from pipeline.shard_log import DATA
from pipeline.storage import absolute_url, open_store
from pipeline.video_file import write_video
from pipeline.weights import check_device

__all__ = ["decode_to_file", "show_dataset"]

_SHOWN = [
    "id",
    "source_key",
    "clip_index",
    "start_seconds",
    "num_frames",
    "latent_t",
    "latent_h",
    "latent_w",
    "caption",
]


def show_dataset(console: Console, root: str, *, rows: int, options: Mapping[str, Any]) -> None:
    """Prints what a dataset holds.

    Raises:
        ConfigError: there is no dataset.
        StorageError: the store failed.
    """
    dataset = Dataset.open(open_store(root, options))
    commits = list(dataset.commits())
    model = dataset.description["model"]
    plan = dataset.description["plan"]
    inputs = dataset.inputs()
    totals = {name: sum(commit[name] for commit in commits) for name in ("rows", "tokens")}
    # The videos of a supplementary shard are counted where they were rejected first.
    first = [commit for commit in commits if base_shard_id(commit["shard_id"]) == commit["shard_id"]]
    totals |= {name: sum(commit[name] for commit in first) for name in ("videos", "video_bytes")}
    parts = [part for commit in commits for part in commit["parts"]]
    removed = dataset.removed()
    gone = f", {sum(map(len, removed.values())):,} of them removed" if removed else ""
    part_bytes = human_bytes(sum(part["size_bytes"] for part in parts))
    facts = {
        "dataset": dataset.store.root,
        "model": model["name"],
        "weights": f"RANDOM, {model['weights']}: the tokens mean nothing"
        if model["checkpoint"] == "random"
        else f"{model['checkpoint']} (sha256 {model['weights'][:12]}...)",
        "clips": ", ".join(f"{name} {value}" for name, value in plan["clips"].items() if value is not None),
        "fingerprint": dataset.description["fingerprint"],
        "shards": f"{len(commits):,} of {len(inputs):,} committed",
        "videos": f"{totals['videos']:,} ({human_bytes(totals['video_bytes'])})",
        "rows": f"{totals['rows']:,} in {len(parts):,} parts ({part_bytes}){gone}",
        "tokens": f"{totals['tokens']:,}",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(name, value)
    console.print(grid, markup=False)
    _show_rejects(console, dataset, commits)
    _show_rows(console, dataset, commits, rows)


def _show_rejects(console: Console, dataset: Dataset, commits: list[dict[str, Any]]) -> None:
    if not any(commit["rejects_by_class"] for commit in commits):
        return
    rows = [row for rejects in outstanding_rejects(dataset).values() for row in rejects.values()]
    counts = Counter((row["error"], row["stage"]) for row in rows)
    examples = {(row["error"], row["stage"]): row for row in reversed(rows)}
    table = Table(
        "rejects", "class", "stage", "for example", "message", title="Videos without rows", title_justify="left"
    )
    for (error, stage), count in counts.most_common():
        row = examples[error, stage]
        where = f"{row['source_shard']}: {row['source_key']}" if row["source_key"] else row["source_shard"]
        table.add_row(f"{count:,}", error, stage, where, row["message"])
    console.print(table, markup=False)


def _show_rows(console: Console, dataset: Dataset, commits: list[dict[str, Any]], rows: int) -> None:
    table = Table("id", "video", "clip", "seconds", "frames", "latent", "caption", title="Rows", title_justify="left")
    left = rows
    reader, removed = PartReader(dataset.store), dataset.removed()
    for group in groups_of(commits):
        if left <= 0:
            break
        ((_, found),) = scan(reader, [group], _SHOWN, removed)
        for row in found.table.slice(0, left).to_pylist():
            latent = f"{row['latent_t']}x{row['latent_h']}x{row['latent_w']}"
            caption = row["caption"] or ""
            numbers = (str(row["clip_index"]), f"{row['start_seconds']:.2f}", str(row["num_frames"]))
            table.add_row(row["id"], row["source_key"], *numbers, latent, caption[:60])
            left -= 1
    if table.row_count:
        console.print(table, markup=False)


def decode_to_file(
    root: str, row_id: str, target: Path, *, checkpoint: str | None, device: str, options: Mapping[str, Any]
) -> int:
    """Decodes one row of a dataset, or of one part alone, to an mp4; returns how many frames it has (no padding).

    Args:
        root: a dataset's root, or a path or URL of a part that ends in .parquet.
        row_id: the row's.
        target: the mp4.
        checkpoint: where the weights lie now, if no longer where they were.
        device: a torch device.
        options: how to reach the stores.

    Raises:
        ConfigError: there is no such dataset, row or device, the weights are gone, or the file cannot be written.
        StorageError: the store failed.
    """
    check_device(device)
    rows, place, description = _found(root, row_id, options)
    row = rows.slice(place, 1).to_pylist()[0]
    tokenizer = load_decoder(description, checkpoint=checkpoint, device=device, options=options)
    frames = decode_found(rows, place, tokenizer)
    seconds = np.asarray(row["frame_seconds"], np.float64)[-len(frames) :]
    real = len(frames) - row["num_padded_frames"]
    write_video(target, frames[:real], seconds[:real])
    return int(real)


def _found(root: str, row_id: str, options: Mapping[str, Any]) -> tuple[pa.Table, int, Mapping[str, Any]]:
    """A row with its stream, its place there, and what says how it was made: dataset.json, or the part's footer."""
    folder, _, name = absolute_url(root).rpartition("/")
    store = open_store(folder or "/", options) if name.endswith(".parquet") else None
    info = None if store is None else store.info(name)
    if store is not None and info is None and not Dataset.exists(open_store(root, options)):
        raise ConfigError(f"{store.root}/{name}: there is no such part, nor a dataset of that name")
    if store is None or info is None:
        dataset = Dataset.open(open_store(root, options))
        return *dataset.find_stream(row_id), dataset.description
    reader = PartReader(store)
    footer, _ = reader.described(name, size_bytes=info.size_bytes)
    removed = _removed_of(folder, name, options)
    found = find_stream(reader, groups_of_part(reader, name, info.size_bytes), row_id, removed)
    if found is None:
        raise ConfigError(f"{store.root}/{name}: has no row with the id {row_id!r}, or it was removed")
    return *found, footer


def _removed_of(folder: str, name: str, options: Mapping[str, Any]) -> Rows:
    """What was removed of a part, where it still lies in its dataset."""
    root, _, data = folder.rpartition("/")
    if data != DATA:
        return {}
    store = open_store(root, options)
    if store.is_web or not Dataset.exists(store):  # a web server may list nothing
        return {}
    rows, _ = read_rows(store, REMOVED)
    return {(name, group): numbers for (path, group), numbers in rows.items() if path == f"{DATA}/{name}"}
