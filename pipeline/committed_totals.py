"""Sums over the commits of a dataset."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.inputs import base_shard_id

__all__ = ["TOTALLED_COLUMNS", "CommittedTotals"]

# Of a snapshot's tables, those that are added up.
TOTALLED_COLUMNS = ("shard_id", "rejects", "rejects_by_class", "videos", "video_bytes", "rows", "tokens")
_SUPPLEMENT = r"~retry\d+$"


@dataclass
class CommittedTotals:
    """What commits say, added up.

    Attributes:
        rows: clips, those that were removed since among them.
        tokens: of these.
        videos: that ended as rows or as a reject; those that were tried again are counted where they were first.
        video_bytes: of these.
        rejects: by class; of a video that was tried again in vain, each.
        rejects_files: where a reject of each class stands.
    """

    rows: int = 0
    tokens: int = 0
    videos: int = 0
    video_bytes: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    rejects_files: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Self:
        """The same, to be gone on with apart."""
        counts = {"rejects": Counter(self.rejects), "rejects_files": dict(self.rejects_files)}
        return type(self)(**{**vars(self), **counts})

    def add(self, commit: Mapping[str, Any]) -> None:
        """Adds one commit."""
        self.rows += commit["rows"]
        self.tokens += commit["tokens"]
        if base_shard_id(commit["shard_id"]) == commit["shard_id"]:  # else its videos were counted before
            self.videos += commit["videos"]
            self.video_bytes += commit["video_bytes"]
        self._add_rejects(commit)

    def add_table(self, table: pa.Table) -> None:
        """Adds the commits of a snapshot, column by column: there may be a million of them."""
        is_first = pc.invert(pc.match_substring_regex(table.column("shard_id"), _SUPPLEMENT))
        for name in ("rows", "tokens"):
            setattr(self, name, getattr(self, name) + (pc.sum(table.column(name)).as_py() or 0))
        for name in ("videos", "video_bytes"):
            total = pc.sum(table.column(name).filter(is_first)).as_py() or 0
            setattr(self, name, getattr(self, name) + total)
        with_rejects = table.filter(pc.is_valid(table.column("rejects"))).select(["rejects", "rejects_by_class"])
        for batch in with_rejects.to_batches(max_chunksize=1000):
            for commit in batch.to_pylist():
                self._add_rejects(commit)

    def _add_rejects(self, commit: Mapping[str, Any]) -> None:
        by_class = dict(commit["rejects_by_class"])
        self.rejects.update(by_class)
        for name in by_class.keys() - self.rejects_files.keys():
            self.rejects_files[name] = commit["rejects"]["path"]
