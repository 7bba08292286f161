"""What a dataset holds, in numbers: its rows, its codes or latents, its sources and rejects.

Codes and seconds are read from the rows, in several threads; the rest stands in the commits and in the index.
"""

import functools
import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.code_usage import CodeCounter, CodeUsage, Counts, code_usage, count_codes
from pipeline.reading.parts import PartReader
from pipeline.reading.source import Source
from pipeline.snapshots import newest_snapshot
from pipeline.statistics import ChannelStatistics, LatentStatistics, channel_statistics
from pipeline.storage import Store

__all__ = [
    "STATISTICS_FILE",
    "CommittedCounts",
    "DatasetStatistics",
    "RowCounts",
    "dataset_statistics",
    "sampled_code_usage",
    "save_statistics",
]

Sums = dict[str, float]

STATISTICS_FILE = "stats.json"
_FORMAT_VERSION = 1
_COUNTED = ("num_frames", "num_padded_frames", "duration_seconds")
_MOST_SOURCES = 1000


@dataclass(frozen=True, kw_only=True)
class CommittedCounts:
    """What the commits say; of rows and videos that were removed since they know nothing.

    Attributes:
        shards: commits, those of supplementary shards among them.
        videos: that gave rows.
        rows: clips.
        rejects_by_class: rejects, which are fewer videos where some were tried again.
        sources: videos that gave rows and their rows by source (a tar, or a group of listed videos), those with the
            most rows first; `source` is None for all that come after the first thousand.
    """

    shards: int
    videos: int
    rows: int
    rejects_by_class: dict[str, int]
    sources: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """The rows that a reader of the snapshot gets.

    Attributes:
        rows: how many.
        tokens: codebook indices, or positions of latents.
        frames: of all clips, padded ones among them.
        padded_frames: those that repeat a clip's last real one.
        seconds: durations of the clips, added up.
        shapes: rows of each latent shape [T, H, W].
    """

    rows: int
    tokens: int
    frames: int
    padded_frames: int
    seconds: float
    shapes: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """All of it.

    Attributes:
        fingerprint: the dataset's.
        model: its model's name.
        snapshot: the number of the snapshot that it is of.
        removals: how many files of removed rows there were.
        committed: from the commits.
        rows: of the rows that are left.
        codes: of the tokens of these; None where there are latents.
        latents: from the commits, so of all rows that were committed; None where there are tokens, or no rows.
    """

    fingerprint: str
    model: str
    snapshot: int
    removals: int
    committed: CommittedCounts
    rows: RowCounts
    codes: CodeUsage | None
    latents: LatentStatistics | None

    def to_json(self) -> dict[str, Any]:
        """In plain JSON types; channel statistics of no values are None."""
        plain = {name: value for name, value in asdict(self).items() if name != "latents"}
        latents = self.latents and {"first": _plain(self.latents.first), "rest": _plain(self.latents.rest)}
        return {"format_version": _FORMAT_VERSION, **plain, "latents": latents}


def _plain(channels: ChannelStatistics) -> dict[str, Any] | None:
    if channels.count == 0:
        return None
    return {"count": channels.count, "mean": channels.mean_C.tolist(), "std": channels.std_C.tolist()}


def dataset_statistics(
    source: Source, *, threads: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> DatasetStatistics:
    """Statistics of what a source gives; row groups are in memory as many as there are threads.

    Args:
        source: of a snapshot, without a split.
        threads: that read and count.
        on_progress: told how many rows are read, and of how many.

    Raises:
        ConfigError: the snapshot is gone.
        CorruptPart: a part cannot be read.
        StorageError: the store failed, or a token is none of the codebook's.
    """
    state = source.state()
    snapshot = newest_snapshot(source.dataset.store, strict=True, upto=source.snapshot)
    (section,) = source.index.sections(by_shape=False)
    total = int(section.rows.sum())
    sums, codes = _scan(source, section.groups.tolist(), threads, lambda rows: on_progress(rows, total))
    rows_of = [int(section.rows.sum()) for section in source.index.sections(by_shape=True)]
    shapes = list(zip(source.index.shapes, rows_of, strict=True))
    return DatasetStatistics(
        fingerprint=state["fingerprint"],
        model=source.description["model"]["name"],
        snapshot=state["snapshot"],
        removals=state["removals"],
        committed=_committed(snapshot.commits()),
        rows=RowCounts(
            rows=sum(rows_of),
            tokens=sum(rows * math.prod(shape) for shape, rows in shapes),
            frames=int(sums["num_frames"]),
            padded_frames=int(sums["num_padded_frames"]),
            seconds=float(sums["duration_seconds"]),
            shapes=[{"shape": list(shape), "rows": rows} for shape, rows in shapes],
        ),
        codes=None if codes is None else code_usage(codes, source.model.fsq_levels),
        latents=channel_statistics(snapshot.commits()),
    )


def _committed(commits: Iterable[Mapping[str, Any]]) -> CommittedCounts:
    shards = 0
    videos: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    rejects: Counter[str] = Counter()
    for commit in commits:
        shards += 1
        path = commit["source"]["path"]  # a supplementary shard's is that of the shard whose videos it tries again
        videos[path] += commit["videos"] - sum(commit["rejects_by_class"].values())
        rows[path] += commit["rows"]
        rejects.update(commit["rejects_by_class"])
    ranked = rows.most_common()
    sources = [{"source": path, "videos": videos[path], "rows": count} for path, count in ranked[:_MOST_SOURCES]]
    if others := ranked[_MOST_SOURCES:]:
        left = {"videos": sum(videos[path] for path, _ in others), "rows": sum(count for _, count in others)}
        sources.append({"source": None, **left})
    return CommittedCounts(
        shards=shards,
        videos=videos.total(),
        rows=rows.total(),
        rejects_by_class=dict(rejects.most_common()),
        sources=sources,
    )


def sampled_code_usage(source: Source, *, threads: int, most_tokens: int) -> CodeUsage | None:
    """How the codebook is used by some of the rows, in time and memory that do not grow with the dataset.

    Args:
        source: of a snapshot.
        threads: that read and count.
        most_tokens: about so many are read, in row groups from all over the dataset; one row group at least.

    Returns:
        None where there are latents, or no tokens.

    Raises:
        CorruptPart, StorageError: see `dataset_statistics`.
    """
    shapes = zip(source.index.shapes, source.index.sections(by_shape=True), strict=True)
    tokens = sum(math.prod(shape) * int(section.rows.sum()) for shape, section in shapes)
    if not source.model.is_discrete or not tokens:
        return None
    (section,) = source.index.sections(by_shape=False)
    count = max(1, len(section.groups) * min(tokens, most_tokens) // tokens)
    chosen = section.groups[(2 * np.arange(count) + 1) * len(section.groups) // (2 * count)]
    _, codes = _scan(source, chosen.tolist(), threads)
    return None if codes is None else code_usage(codes, source.model.fsq_levels)


def _scan(
    source: Source, groups: Sequence[int], threads: int, on_progress: Callable[[int], None] = lambda rows: None
) -> tuple[Sums, Counts | None]:
    """Goes through the rows of some groups; the sums of some columns, and how often each code occurs."""
    size = source.model.codebook_size
    counter = CodeCounter(size) if size else None
    columns = (*_COUNTED, "tokens") if size else _COUNTED
    read = functools.partial(_read, source, PartReader(source.dataset.store), columns)
    sums: Sums = dict.fromkeys((*_COUNTED, "rows"), 0)
    on_progress(0)
    for of_group, counts in _few_ahead(read, groups, threads):
        sums = {name: value + of_group[name] for name, value in sums.items()}
        if counter is not None and counts is not None:
            counter.add(counts)
        on_progress(int(sums["rows"]))
    return sums, None if counter is None else counter.total()


def _read(source: Source, reader: PartReader, columns: tuple[str, ...], group: int) -> tuple[Sums, Counts | None]:
    found = reader.read(*source.index.place(group), columns, size_bytes=source.index.size_bytes(group))
    is_given = np.isin(found.kept, source.index.rows_of(group, None))
    table = found.table if is_given.all() else found.table.filter(pa.array(is_given))
    sums: Sums = {name: pc.sum(table.column(name)).as_py() or 0 for name in _COUNTED}
    sums["rows"] = table.num_rows
    size = source.model.codebook_size
    counts = count_codes(pc.list_flatten(table.column("tokens")).to_numpy(), size) if size else None
    return sums, counts


def _few_ahead(call: Callable[[int], Any], arguments: Iterable[int], threads: int) -> Iterator[Any]:
    """What calls give, in order; no more results wait than there are threads."""
    with ThreadPoolExecutor(threads, thread_name_prefix="statistics") as pool:
        coming: deque[Future[Any]] = deque()
        try:
            waiting = iter(arguments)
            coming.extend(pool.submit(call, argument) for argument in itertools.islice(waiting, threads + 1))
            while coming:
                yield coming.popleft().result()
                coming.extend(pool.submit(call, argument) for argument in itertools.islice(waiting, 1))
        finally:  # after an error, or Ctrl-C, nothing more is begun
            pool.shutdown(cancel_futures=True)


def save_statistics(store: Store, statistics: DatasetStatistics) -> None:
    """Writes STATISTICS_FILE to a dataset's root, over what stands there: it is derived.

    Raises:
        StorageError: the store refused.
    """
    store.put(STATISTICS_FILE, json.dumps(statistics.to_json(), indent=1, ensure_ascii=False).encode())
