"""One committed shard held against its commit and its parts' footers."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.errors import VidtokError
from pipeline.parts import REWRITTEN, StoredPart, describe_part, footer_of, holds_rejects, read_table
from pipeline.records import Position, Shard
from pipeline.removal import Removals
from pipeline.rewritten_check import as_committed, rewritten_problems
from pipeline.rows import SEGMENT_COLUMN
from vidtok_model import TokenizerConfig

__all__ = ["ShardCheck"]

_GRID = ("latent_t", "latent_h", "latent_w")


class ShardCheck:
    """The check of one shard.

    Attributes:
        problems: one line each.
        ids: of the shard's rows.
        keys: videos that have rows or a reject, by source key.
    """

    def __init__(
        self, dataset: Dataset, commit: Mapping[str, Any], shard: Shard, *, deep: bool, removals: Removals
    ) -> None:
        """Takes what to check.

        Args:
            dataset: whose shard it is.
            commit: the shard's commit.
            shard: the shard as the input lists it.
            deep: whether to check sha256.
            removals: what was removed of the dataset.
        """
        self.problems: list[str] = []
        self.ids: list[Any] = []
        self.keys: Counter[str] = Counter()
        self._dataset = dataset
        self._commit = commit
        self._shard = shard
        self._deep = deep
        self._removals = removals
        self._is_spoiled = False  # a file is not the one that was committed
        self._model = TokenizerConfig.from_dict(dataset.description["model"]["config"])

    def run(self) -> None:
        """Checks all there is."""
        commit = self._commit
        source = {"path": self._shard.path, "size_bytes": self._shard.size_bytes, "etag": self._shard.etag}
        self._compare("commit: fingerprint", commit["fingerprint"], self._dataset.description["fingerprint"])
        self._compare("commit: source", commit["source"], source)
        position: Position | None = self._shard.beginning
        totals = Counter(rows=0, tokens=0, videos=0, video_bytes=0)
        rejects: list[Mapping[str, Any]] = []
        is_whole = True
        for number, named in enumerate(commit["parts"]):
            expected = f"{self._shard.shard_id}-p{number:03d}.parquet"
            self._compare(f"part {number}: name", posixpath.basename(named["path"]), expected)
            part = self._check_part(named, source, position)
            position = part.end if part else None  # where the next one begins, nobody knows behind a lost one
            if part is None:
                is_whole = False
                continue
            rejects += part.footer["rejects"]
            self.keys += part.keys
            totals.update(rows=part.num_rows, tokens=part.num_tokens)
            totals.update({name: part.footer[name] for name in ("videos", "video_bytes")})
        if is_whole:
            for name, total in totals.items():
                self._compare(f"{name} of all parts", total, commit[name])
            self._check_rejects(rejects)
            self._check_supplement()
        elif commit["rejects"]:
            self._file(commit["rejects"])
        if self._is_spoiled:
            self.problems.append(
                "no run writes again what is committed: put it back from a backup or from the store's older versions "
                f"of it, or tokenize {self._shard.path} into another output"
            )

    def _check_part(
        self, named: Mapping[str, Any], source: Mapping[str, Any], start: Position | None
    ) -> StoredPart | None:
        """Checks one part, which begins at `start` where that is known; None where it cannot be read."""
        data = self._file(named, may_be_rewritten=True)
        if data is None:
            return None
        try:
            part, table = describe_part(named["path"], data), read_table(data)
        except (VidtokError, pa.ArrowException, OSError) as error:
            self.problems.append(f"{named['path']}: cannot be read: {error}")
            self._is_spoiled = True
            return None
        if start is not None:
            self._compare(f"{part.name}: beginning (a hole or an overlap in the chain)", part.start, start)
        self._compare(f"{part.name}: fingerprint", part.footer["fingerprint"], self._commit["fingerprint"])
        self._compare(f"{part.name}: source", part.footer["source"], source)
        if REWRITTEN in part.footer:
            problems = list(rewritten_problems(part, named, self._removals))
            self.problems += problems
            self._is_spoiled |= bool(problems)
            part = as_committed(part, named, set(map(str, table.column("source_key").to_pylist())), self._removals)
        else:
            self._compare(f"{part.name}: rows", part.num_rows, named["rows"])
            self._compare(f"{part.name}: row groups", list(part.row_groups), named["row_groups"])
            shapes = {tuple(counted["shape"]): counted["rows"] for counted in named["shapes"]}
            self._compare(f"{part.name}: rows by shape", part.shapes, shapes)
        self._compare(f"{part.name}: videos", sum(part.keys.values()), part.footer["videos"])
        self._check_rows(part.name, table)
        return part

    def _check_supplement(self) -> None:
        if self._shard.only is not None:
            wanted = Counter(key for key, _ in self._shard.only)
            self._compare("videos that were to be tried again", self.keys, wanted)

    def _compare(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.problems.append(f"{what}: found {found}, expected {expected}")

    def _file(self, named: Mapping[str, Any], *, may_be_rewritten: bool = False) -> bytes | None:
        """Its bytes, or None where it is not what was committed, nor what a removal left of it."""
        path = named["path"]
        data = self._dataset.store.read_if_there(path)
        if may_be_rewritten and data is not None and REWRITTEN in (footer_of(data) or {}):
            return data
        size = None if data is None else len(data)
        if data is None or size != named["size_bytes"]:
            self._compare(f"{path}: bytes (None: it is not there)", size, named["size_bytes"])
            self._is_spoiled = True
            return None
        if self._deep and (digest := hashlib.sha256(data).hexdigest()) != named["sha256"]:
            self._compare(f"{path}: sha256", digest, named["sha256"])
            self._is_spoiled = True
        return data

    def _check_rows(self, name: str, table: pa.Table) -> None:
        self.ids += table.column("id").chunks
        grid = np.prod([table.column(axis).to_numpy().astype(np.int64) for axis in _GRID], axis=0)
        ids = [str(row_id) for row_id in table.column("id").to_pylist()]
        if SEGMENT_COLUMN in table.column_names:
            self._check_segments(name, ids, table)
        if self._model.is_discrete:
            self._check_sizes(name, ids, "tokens", pc.list_value_length(table.column("tokens")), grid)
            self._check_codes(name, ids, table.column("tokens"))
            return
        for column in {"latents", "logvar"} & set(table.column_names):
            sizes = pc.binary_length(table.column(column))
            self._check_sizes(name, ids, column, sizes, grid * self._model.latent_channels * 2)
            for row_id, value in zip(ids, table.column(column), strict=True):
                buffer = value.as_buffer()
                if buffer is not None and buffer.size % 2 == 0:
                    bad = int((~np.isfinite(np.frombuffer(buffer, "<f2"))).sum())
                    self._compare(f"{name}: row {row_id}: {column} that are not finite", bad, 0)

    def _check_segments(self, name: str, ids: list[str], table: pa.Table) -> None:
        """A video's rows are in order, and so are the segments of each of its streams, which begin at 0."""
        clips, segments = (table.column(column).to_pylist() for column in ("clip_index", SEGMENT_COLUMN))
        for row_id, clip, before, segment in zip(ids, clips, [None, *segments], segments, strict=False):
            expected = [0] if clip == 0 or before is None else [0, before + 1]
            if segment not in expected:
                wanted = " or ".join(map(str, expected))
                self.problems.append(f"{name}: row {row_id}: {SEGMENT_COLUMN}: found {segment}, expected {wanted}")

    def _check_sizes(self, name: str, ids: list[str], column: str, found: Any, expected: Any) -> None:
        for row_id, size, wanted in zip(ids, found.to_pylist(), expected.tolist(), strict=True):
            unit = "bytes of " if column != "tokens" else ""
            self._compare(f"{name}: row {row_id}: {unit}{column}", size, wanted)

    def _check_codes(self, name: str, ids: list[str], tokens: Any) -> None:
        codes, size = pc.list_flatten(tokens).to_numpy(), self._model.codebook_size or 0
        wrong = (codes < 0) | (codes >= size)
        if wrong.any():
            rows = np.unique(pc.list_parent_indices(tokens).to_numpy()[wrong])
            self.problems.append(
                f"{name}: row {ids[rows[0]]} and {len(rows) - 1} more: tokens from {codes[wrong].min()} to "
                f"{codes[wrong].max()}, expected 0 to {size - 1}"
            )

    def _check_rejects(self, rejects: list[Mapping[str, Any]]) -> None:
        by_class = dict(sorted(Counter(reject["error"] for reject in rejects).items()))
        self._compare("rejects by class in the parts' footers", by_class, self._commit["rejects_by_class"])
        named = self._commit["rejects"]
        if (named is None) != (not rejects):
            self.problems.append(f"{len(rejects)} rejects in the parts' footers, but the commit names {named}")
        if named is not None and (data := self._file(named)) is not None and not holds_rejects(data, rejects):
            self.problems.append(f"{named['path']}: other rejects than those of the parts' footers")
