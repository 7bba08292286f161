"""A shard's parts as a log, and the commit that makes them final.

The first writer of a part wins; whoever finds or meets it adopts it and goes on from its end. So attempts that
rejected different videos still give one chain, each video once.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.crash_points import crash_point
from pipeline.errors import CommitConflict, ShardError
from pipeline.parts import REWRITTEN, StoredPart, describe_part, holds_rejects, part_bytes, rejects_bytes
from pipeline.records import Part, Position, Shard
from pipeline.rows import FORMAT_VERSION
from pipeline.statistics import channel_sums, merge_channel_sums
from pipeline.storage import Store

__all__ = ["COMMITS", "DATA", "ShardLog", "commit_path", "part_footer", "read_commit", "read_commits"]

COMMITS = "_commits"
DATA = "data"
_READ_AT_ONCE, _READ_AHEAD = 16, 1000
# What readers of commits rely on.
_COMMIT_FIELDS = {
    "fingerprint",
    "source",
    "parts",
    "rejects",
    "rejects_by_class",
    "videos",
    "video_bytes",
    "rows",
    "tokens",
}


def commit_path(shard_id: str) -> str:
    """Where a shard's commit stands below the dataset's root."""
    return f"{COMMITS}/{shard_id}.json"


def read_commit(store: Store, shard_id: str) -> dict[str, Any] | None:
    """A shard's commit, or None where it is not committed.

    Raises:
        CommitConflict: what stands there is no commit.
    """
    data = store.read_if_there(commit_path(shard_id))
    try:
        commit = None if data is None else json.loads(data)
        if commit is not None and commit["shard_id"] != shard_id:
            raise ValueError(f"it is of {commit['shard_id']}")
        if commit is not None and (lacking := _COMMIT_FIELDS - commit.keys()):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommitConflict(f"{store.root}/{commit_path(shard_id)}: is not a commit of ours: {error}") from None
    return commit


def read_commits(store: Store, shard_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The commits of some shards, in order, several read at a time; those that are not committed are left out."""
    with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
        for begin in range(0, len(shard_ids), _READ_AHEAD):
            some = shard_ids[begin : begin + _READ_AHEAD]
            yield from filter(None, threads.map(lambda shard_id: read_commit(store, shard_id), some))


def part_footer(
    part: Part, shard: Shard, start: Position, attempt_id: str, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What the footer of a shard's part says that begins at `start`; see ShardLog for the rest."""
    return {
        "attempt_id": attempt_id,
        "shard_id": shard.shard_id,
        "source": _source_of(shard),
        "range": {
            "start": {"sample": start.sample, "offset": start.offset},
            "end": {"sample": part.end.sample, "offset": part.end.offset},
        },
        "videos": part.num_videos,
        "video_bytes": part.video_bytes,
        "rejects": part.rejects,
        "statistics": channel_sums(part.rows),
        **provenance,
    }


def _source_of(shard: Shard) -> dict[str, Any]:
    return {"path": shard.path, "size_bytes": shard.size_bytes, "etag": shard.etag}


class ShardLog:
    """The parts of one shard in one dataset, as far as they are written."""

    def __init__(
        self, store: Store, shard: Shard, *, schema: pa.Schema, provenance: dict[str, Any], attempt_id: str
    ) -> None:
        """Adopts the parts that earlier attempts left.

        Args:
            store: the dataset's root.
            shard: which shard.
            schema: columns of a row.
            provenance: fingerprint, model and versions, as every part's footer repeats them.
            attempt_id: names this attempt at this shard, of fixed length.

        Raises:
            CommitConflict: what stands there is no chain of ours.
            StorageError: the store failed.
        """
        self.parts: list[StoredPart] = []
        self._store = store
        self._shard = shard
        self._schema = schema
        self._provenance = provenance
        self._attempt_id = attempt_id
        self._adopt_standing()

    @property
    def position(self) -> Position:
        """Where the next part begins."""
        return self.parts[-1].end if self.parts else self._shard.beginning

    @property
    def keys(self) -> Counter[str]:
        """Videos so far, by source key."""
        return sum((part.keys for part in self.parts), Counter())

    def _adopt_standing(self) -> None:
        # By name, one after the other: a listing would go through the parts of every shard.
        while (data := self._store.read_if_there(self._next_name())) is not None:
            self._adopt(data)

    def _next_name(self) -> str:
        return f"{DATA}/{self._shard.shard_id}-p{len(self.parts):03d}.parquet"

    def append(self, part: Part) -> bool:
        """Writes the next part, unless someone else wrote one of that name; then adopts theirs.

        Returns:
            True where `part` is in the log now; False where another is, and reading goes on from `position`.
        """
        name = self._next_name()
        footer = part_footer(part, self._shard, self.position, self._attempt_id, self._provenance)
        data = part_bytes(part, self._schema, footer)
        crash_point("part-built")
        if self._store.put_if_absent(name, data):
            crash_point("part-put")
            self.parts.append(describe_part(name, data))
            return True
        # Another attempt's part, or our own whose answer was lost.
        return bool(self._adopt(self._store.read(name)).footer["attempt_id"] == self._attempt_id)

    def commit(self) -> dict[str, Any]:
        """Writes the rejects and then the commit, from the parts' footers alone; returns the commit.

        Raises:
            CommitConflict: another commit stands there.
            ShardError: a part is gone.
        """
        crash_point("parts-complete")
        self._adopt_standing()  # none that is right: it would be one behind a hole that was filled otherwise
        if missing := [part.name for part in self.parts if self._store.info(part.name) is None]:
            raise ShardError(f"{self._shard.path}: {', '.join(missing)} was removed while the shard was under way")
        record = self._record()
        data = json.dumps(record, ensure_ascii=False, indent=1).encode()
        path = commit_path(self._shard.shard_id)
        if not self._store.put_if_absent(path, data):
            try:
                standing = json.loads(self._store.read(path))
            except ValueError:
                standing = None  # no JSON
            # What was committed may have lost rows since that were taken down, and this attempt adopted what is left.
            if standing != record and not any(REWRITTEN in part.footer for part in self.parts):
                raise CommitConflict(f"{path}: another commit of {self._shard.path} stands there")
            record = standing
        crash_point("commit-put")
        return record

    def _adopt(self, data: bytes) -> StoredPart:
        name = self._next_name()
        part = describe_part(name, data)
        expected = {"fingerprint": self._provenance["fingerprint"], "source": self._source()}
        for field, value in expected.items():
            if part.footer[field] != value:
                raise CommitConflict(f"{name}: its {field} is {part.footer[field]}, expected {value}")
        if part.start != self.position:
            raise CommitConflict(
                f"{name}: begins at {part.start}, expected {self.position}: a part before it was removed; "
                f"`vidtok gc --shard {self._shard.shard_id} --remove` removes all of the shard, to begin it anew"
            )
        self.parts.append(part)
        return part

    def _source(self) -> dict[str, Any]:
        return _source_of(self._shard)

    def _record(self) -> dict[str, Any]:
        rejects = [reject for part in self.parts for reject in part.footer["rejects"]]
        statistics = None
        for part in self.parts:
            statistics = merge_channel_sums(statistics, part.footer["statistics"])
        return {
            "format_version": FORMAT_VERSION,
            "shard_id": self._shard.shard_id,
            "fingerprint": self._provenance["fingerprint"],
            "source": self._source(),
            "parts": [
                {
                    "path": part.name,
                    "size_bytes": part.size_bytes,
                    "rows": part.num_rows,
                    "sha256": part.sha256,
                    "row_groups": list(part.row_groups),
                    "shapes": [{"shape": list(shape), "rows": rows} for shape, rows in part.shapes.items()],
                }
                for part in self.parts
            ],
            "rejects": self._write_rejects(rejects) if rejects else None,
            "rejects_by_class": dict(sorted(Counter(reject["error"] for reject in rejects).items())),
            "videos": sum(part.footer["videos"] for part in self.parts),
            "video_bytes": sum(part.footer["video_bytes"] for part in self.parts),
            "rows": sum(part.num_rows for part in self.parts),
            "tokens": sum(part.num_tokens for part in self.parts),
            "statistics": statistics,
        }

    def _write_rejects(self, rejects: list[dict[str, Any]]) -> dict[str, Any]:
        path = f"rejects/{self._shard.shard_id}.parquet"
        data = rejects_bytes(rejects)
        if not self._store.put_if_absent(path, data):
            data = self._store.read(path)  # another version of the Parquet library may have written it
            if not holds_rejects(data, rejects):
                raise CommitConflict(f"{path}: other rejects than those of the parts' footers stand there")
        crash_point("rejects-put")
        return {
            "path": path,
            "size_bytes": len(data),
            "rows": len(rejects),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
