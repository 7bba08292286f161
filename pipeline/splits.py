"""Train and validation: all rows of a video on one side, which follows from the video's name and a seed alone."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.reading.parts import GroupRows, PartReader
from pipeline.row_scan import groups_of, scan
from pipeline.row_sets import SPLITS, Place, add_rows, read_files, read_rows
from pipeline.snapshots import newest_snapshot
from pipeline.storage import Store

__all__ = ["SIDES", "Division", "is_validation", "split_dataset", "standing_split"]

SIDES = ("train", "validation")
_COLUMNS = ("source_shard", "source_key", "clip_index")


@dataclass(frozen=True)
class Division:
    """Both sides, as they were when their row groups were divided.

    Attributes:
        rows: of each side.
        videos: of each side.
        added: row groups that were divided just now.
    """

    rows: Counter[str] = field(default_factory=Counter)
    videos: Counter[str] = field(default_factory=Counter)
    added: int = 0


def is_validation(source_shard: str, source_key: str, *, validation: float, seed: int) -> bool:
    """A video's side: sha256 over the canonical JSON of seed, shard and key, as a number below 1, is below a share.

    So a larger share keeps the videos of a smaller one.
    """
    name = json.dumps([seed, source_shard, source_key], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < validation * 2**64


def standing_split(store: Store) -> tuple[float, int] | None:
    """The share of validation and the seed that a dataset is divided by; None where it is not.

    Raises:
        ConfigError: its files name several, as where two divided it at once.
    """
    try:
        found = sorted({(float(said["validation"]), int(said["seed"])) for _, said in read_files(store, SPLITS)})
    except KeyError:
        raise ConfigError(
            f"{store.root}/{SPLITS}: a file names no share or seed: `vidtok split` did not write it"
        ) from None
    if len(found) > 1:
        said = " and ".join(f"validation {share}, seed {seed}" for share, seed in found)
        raise ConfigError(f"{store.root}/{SPLITS}: is divided by {said}; remove that folder and divide it once more")
    return found[0] if found else None


def split_dataset(dataset: Dataset, *, validation: float, seed: int) -> Division:
    """Divides what is committed: every row group that no file names yet, in one file more of the set.

    Args:
        dataset: which.
        validation: share of the videos, above 0 and below 1.
        seed: another one chooses other videos.

    Raises:
        ConfigError: it is divided by another share or seed, or the share is none.
        StorageError: the store failed, or a part is damaged.
    """
    if not 0 < validation < 1:
        raise ConfigError(f"--validation {validation}: expected a share of the videos above 0 and below 1")
    store = dataset.store
    if (standing := standing_split(store)) not in (None, (validation, seed)):
        raise ConfigError(
            f"{store.root} is divided by validation {standing[0]}, seed {standing[1]}: expected these, found "
            f"validation {validation}, seed {seed}. Videos would change sides; remove {SPLITS}/ to divide it anew"
        )
    dataset.complete_snapshot()
    known, _ = read_rows(store, SPLITS)
    commits = newest_snapshot(store, strict=True).commits()
    new = (group for group in groups_of(commits) if group.place not in known)
    division = Division()
    chosen: dict[Place, Any] = {}
    for group, rows in scan(PartReader(store), new, _COLUMNS, dataset.removed()):
        chosen[group.place] = _divide(rows, division, validation=validation, seed=seed)
    if chosen:
        counts = {"rows": division.rows, "videos": division.videos}
        add_rows(store, SPLITS, chosen.items(), {"validation": validation, "seed": seed, **counts})
        standing_split(store)  # of two that do it at once
    return _totals(store, len(chosen))


def _divide(rows: GroupRows, division: Division, *, validation: float, seed: int) -> Any:
    """The numbers of the rows of the validation's side, which are counted along."""
    sides: dict[tuple[str, str], int] = {}
    is_chosen = np.zeros(len(rows.kept), bool)
    columns = (rows.table.column(name).to_pylist() for name in _COLUMNS)
    for number, (shard, key, clip) in enumerate(zip(*columns, strict=True)):
        if (shard, key) not in sides:
            sides[shard, key] = is_validation(shard, key, validation=validation, seed=seed)
        side = SIDES[sides[shard, key]]
        is_chosen[number] = sides[shard, key]
        division.rows[side] += 1
        division.videos[side] += clip == 0  # a video's clips count from 0
    return rows.kept[is_chosen]


def _totals(store: Store, added: int) -> Division:
    rows: Counter[str] = Counter()
    videos: Counter[str] = Counter()
    for _, footer in read_files(store, SPLITS):
        counts: Mapping[str, Mapping[str, int]] = footer
        rows.update(counts.get("rows", {}))
        videos.update(counts.get("videos", {}))
    return Division(rows, videos, added)
