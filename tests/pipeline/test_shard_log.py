"""Whoever writes, dies or answers late: a shard's parts are one chain, and each video stands in it once."""

import contextlib
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import CommitConflict, SampleError, ShardError, StorageError
from pipeline.flow import Work, tokenize_shard
from pipeline.input_config import InputConfig
from pipeline.listed_videos import VideoFetcher
from pipeline.parts import describe_part
from pipeline.records import Clip, DecodedFrame, EncodedClip, Part, Position, Shard, Video
from pipeline.rows import build_rows, row_schema
from pipeline.shard_log import ShardLog, commit_path
from pipeline.shards import list_shards
from pipeline.storage import Store, open_store
from tests.jobs_for_tests import job
from tests.media import pack_tar
from tests.records_for_tests import SOURCE, batch_of, clip_of, end_of, tokens_of

SHARD = Shard(shard_id="s-0", path="s.tar", size_bytes=4096, etag="e")
SCHEMA = row_schema(is_discrete=True, logvar=False)
PROVENANCE = {"fingerprint": "f" * 64, "plan": {}, "model": {}}
OURS, THEIRS = "a" * 32, "b" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def log_of(store: Any, attempt_id: str = OURS, *, shard: Shard = SHARD, **provenance: Any) -> ShardLog:
    return ShardLog(store, shard, schema=SCHEMA, provenance={**PROVENANCE, **provenance}, attempt_id=attempt_id)


def part(*keys: str, sample: int) -> Part:
    """Videos of one clip each, the last of which is this sample of the shard."""
    clips = [clip_of(key) for key in keys]
    ends = [end_of(clip, sample=sample - len(keys) + number) for number, clip in enumerate(clips, 1)]
    (made,) = build_rows([(batch_of(*clips, ends=ends), [tokens_of(1, 1, 1)] * len(clips))], logvar=False)
    return made


class Wrapped:
    """A store of which one method is another."""

    def __init__(self, store: Store, **methods: Callable[..., Any]) -> None:
        self._store = store
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_the_first_writer_wins_and_the_other_goes_on_from_there(store: Store) -> None:
    ours, theirs = log_of(store), log_of(store, THEIRS)
    assert theirs.append(part("a", "b", sample=2)) is True
    assert ours.append(part("a", sample=1)) is False
    assert ours.position == theirs.position == Position(sample=2, offset=2048)
    assert ours.keys == {"a": 1, "b": 1}
    assert ours.append(part("c", sample=3)) is True
    assert theirs.append(part("c", sample=3)) is False, "equal content of another attempt is adopted too"
    assert [entry.footer["attempt_id"] for entry in ours.parts] == [THEIRS, OURS]
    assert [(entry.start.sample, entry.end.sample) for entry in ours.parts] == [(0, 2), (2, 3)]
    late = log_of(store, "c" * 32)
    assert late.parts == ours.parts == theirs.parts
    assert late.commit() == ours.commit() == theirs.commit()


def test_a_lost_answer_is_no_rival(store: Store) -> None:
    def put(path: str, data: bytes) -> bool:
        assert store.put_if_absent(path, data)
        return False

    log = log_of(Wrapped(store, put_if_absent=put))
    assert log.append(part("a", sample=1)) is True
    assert log.append(part("b", sample=2)) is True
    commit = log.commit()
    assert [entry["path"] for entry in commit["parts"]] == ["data/s-0-p000.parquet", "data/s-0-p001.parquet"]
    assert json.loads(store.read(commit_path("s-0"))) == commit


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fingerprint": "0" * 64}, r"p000\.parquet: its fingerprint is 0+, expected f+"),
        ({"shard": dataclasses.replace(SHARD, size_bytes=5)}, r"p000\.parquet: its source is .*'size_bytes': 5,"),
        ({"shard": dataclasses.replace(SHARD, etag="x")}, r"p000\.parquet: its source is .*'etag': 'x'"),
        ({"shard": dataclasses.replace(SHARD, path="t.tar")}, r"p000\.parquet: its source is .*'path': 't\.tar'"),
    ],
)
def test_parts_of_something_else_are_a_conflict(store: Store, other: dict[str, Any], message: str) -> None:
    ours = log_of(store)
    log_of(store, THEIRS, **other).append(part("a", sample=1))
    for act in (lambda: log_of(store), lambda: ours.append(part("a", sample=1))):
        with pytest.raises(CommitConflict, match=message):
            act()


def move(store: Store, source: str, target: str) -> None:
    root = Path(store.root)
    (root / source).rename(root / target)


def test_parts_that_do_not_join_are_a_conflict(store: Store) -> None:
    log = log_of(store)
    for number, key in enumerate("abc", 1):
        log.append(part(key, sample=number))
    move(store, "data/s-0-p002.parquet", "data/s-0-p001.parquet")
    with pytest.raises(CommitConflict, match=r"p001\.parquet: begins at .*sample=2.*expected .*sample=1"):
        log_of(store)


def test_a_hole_in_the_chain_is_a_conflict_where_it_shows(store: Store) -> None:
    log = log_of(store)
    for number, key in enumerate("abc", 1):
        log.append(part(key, sample=number))
    Path(store.root, "data/s-0-p001.parquet").unlink()
    mending = log_of(store)
    assert mending.position.sample == 1
    assert mending.append(part("b", "c", sample=3))
    with pytest.raises(CommitConflict, match=r"p002\.parquet: begins at .*sample=2.*expected .*sample=3"):
        mending.append(part("d", sample=4))


@pytest.mark.parametrize("data", [b"", b"garbage", b"PAR1" + b"\xff" * 99 + b"PAR1"])
def test_garbage_in_the_chain_is_a_conflict(store: Store, data: bytes) -> None:
    ours = log_of(store)
    store.put_if_absent("data/s-0-p000.parquet", data)
    for act in (lambda: log_of(store), lambda: ours.append(part("a", sample=1))):
        with pytest.raises(CommitConflict, match=r"data/s-0-p000\.parquet: a file that is not a part of ours"):
            act()


def test_more_than_a_thousand_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    log = log_of(store)
    for number in range(1, 1003):
        assert log.append(part("a", sample=number))
    assert [entry.name for entry in log_of(store, THEIRS).parts[-2:]] == [
        "data/s-0-p1000.parquet",
        "data/s-0-p1001.parquet",
    ]
    assert len(log.commit()["parts"]) == 1002


def test_a_part_that_was_removed_meanwhile_is_told(store: Store) -> None:
    log = log_of(store)
    for number, key in enumerate("abc", 1):
        log.append(part(key, sample=number))
    Path(store.root, "data/s-0-p001.parquet").unlink()
    with pytest.raises(ShardError, match=r"s\.tar: data/s-0-p001\.parquet was removed while the shard was under way"):
        log.commit()
    assert store.read_if_there(commit_path("s-0")) is None


def test_a_neighbour_with_a_name_that_begins_alike(store: Store) -> None:
    log_of(store, shard=dataclasses.replace(SHARD, shard_id="s-0-p000", path="t.tar")).append(part("x", sample=1))
    assert log_of(store).parts == []


def test_commits(store: Store) -> None:
    log = log_of(store)
    log.append(part("a", sample=1))
    commit = log.commit()
    assert log.commit() == commit == log_of(store, THEIRS).commit(), "twice is once"
    (stored,) = commit["parts"]
    assert (commit["videos"], commit["rows"], commit["tokens"], commit["rejects"]) == (1, 1, 1, None)
    assert (stored["rows"], stored["size_bytes"]) == (1, len(store.read(stored["path"])))
    log.append(part("b", sample=2))
    with pytest.raises(CommitConflict, match=r"_commits/s-0\.json: another commit of s\.tar stands there"):
        log.commit()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_garbage_for_a_commit_is_a_conflict(store: Store, data: bytes) -> None:
    store.put_if_absent(commit_path("s-0"), data)
    with pytest.raises(CommitConflict, match=r"another commit of s\.tar stands there"):
        log_of(store).commit()


# From here on whole attempts race: real tars, parts and commits; decoder and encoder are invented.

KEYS = ["a", "b", "a", "c", "d", "b", "e", "a"]  # repeated ones, too: occurrences go on over a rival's parts


class Died(Exception):
    """This attempt's worker."""


class Decoder:
    """Gives each video as many frames as it has bytes, but for the rejected ones, which break off in the middle."""

    def __init__(self, rejected: frozenset[int]) -> None:
        self._rejected = rejected

    def decode(self, videos: Iterable[Video], _: object) -> Iterator[tuple[Video, Iterator[DecodedFrame]]]:
        for video in videos:
            yield video, self._frames(video)

    def _frames(self, video: Video) -> Iterator[DecodedFrame]:
        number = video.data[0]
        for frame in range(len(video.data)):
            if number in self._rejected and frame == 3:
                raise SampleError("decode", "timeout", f"{video.ref.key} took too long")
            yield DecodedFrame(
                pixels_HWC=np.full((8, 8, 3), number, np.uint8),
                seconds=frame / 10,
                duration_seconds=0.1,
                source=SOURCE,
                flags=(),
            )


class Encoder:
    """The video's number, twice."""

    batch_size, num_ahead = 2, 0

    def begin_thread(self) -> None:
        pass

    def begin(self, clips: list[Clip]) -> Callable[[], list[EncodedClip]]:
        numbers = [clip.frames_THWC[0, 0, 0, 0] for clip in clips]
        return lambda: [EncodedClip(tokens_THW=np.full((2, 1, 1), number, np.int32)) for number in numbers]


@pytest.fixture(scope="module", params=["0.tar", "0.tar.gz"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    # 4 to 11 frames: one to three clips of five.
    members = [(f"{key}.mp4", bytes([number]) * (4 + number)) for number, key in enumerate(KEYS)]
    pack_tar(folder / request.param, members, "w:gz" if request.param.endswith("gz") else "w")
    return folder


class Attempts:
    """Attempts at one shard, each with its own mind about which videos are bad."""

    def __init__(self, source: Path, output: Path) -> None:
        self.store = open_store(str(output))
        (self.shard,) = list_shards(InputConfig(shards=str(source)))
        self._source = source
        self._count = 0

    def run(self, rejected: frozenset[int], part_bytes: int, **methods: Callable[..., Any]) -> dict[str, Any]:
        """One attempt; `methods` replace those of the store that it writes to."""
        self._count += 1
        config = job(
            self._source,
            self.store.root,
            clips={"fps": None, "size": 8, "num_frames": 5},
            rows={"part_bytes": part_bytes},
        )
        work = Work(
            config=config,
            tokenizer_config=config.model.tokenizer_config(),
            input=open_store(str(self._source)),
            output=Wrapped(self.store, **methods),  # type: ignore[arg-type]
            fetcher=VideoFetcher(config),
            decoder=Decoder(rejected),
            encoder=Encoder(),  # type: ignore[arg-type]
            schema=SCHEMA,
            provenance=PROVENANCE,
        )
        return tokenize_shard(self.shard, work, attempt_id=f"{self._count:032x}")

    def dies_after(self, puts: int) -> Callable[[str, bytes], bool]:
        """A put_if_absent that kills its attempt when it has put so many objects."""
        left = puts

        def put(path: str, data: bytes) -> bool:
            nonlocal left
            if left == 0:
                raise Died
            done = self.store.put_if_absent(path, data)
            left -= 1
            return done

        return put


def assert_each_video_once(attempts: Attempts, commit: dict[str, Any]) -> list[int]:
    """The chain joins, and each input video stands in it once; returns which were rejected."""
    store = attempts.store
    assert json.loads(store.read(commit_path(attempts.shard.shard_id))) == commit
    assert [info.path for info in store.list("data")] == [entry["path"] for entry in commit["parts"]]
    parts = [describe_part(entry["path"], store.read(entry["path"])) for entry in commit["parts"]]
    assert [entry.start for entry in parts[1:]] == [entry.end for entry in parts[:-1]]
    rows = [row for entry in parts for row in pq.read_table(io.BytesIO(store.read(entry.name))).to_pylist()]
    numbers = [row["tokens"][0] for row in rows if row["clip_index"] == 0]
    # Rejects do not hold the video's number; the occurrences of a key are counted in the order of the input.
    seen: Counter[str] = Counter()
    by_name = {}
    for number, key in enumerate(KEYS):
        by_name[key, seen[key]] = number
        seen[key] += 1
    rejects = [reject for entry in parts for reject in entry.footer["rejects"]]
    rejected = [by_name[reject["source_key"], reject["occurrence"]] for reject in rejects]
    assert sorted(numbers + rejected) == list(range(len(KEYS)))
    clips = {number: -(-(4 + number) // 5) for number in numbers}
    assert Counter(row["tokens"][0] for row in rows) == clips, "all clips of a video that has some"
    assert len({row["id"] for row in rows}) == len(rows) == commit["rows"]
    assert commit["videos"] == len(KEYS) and commit["rejects_by_class"].get("timeout", 0) == len(rejected)
    return rejected


some_videos = st.frozensets(st.integers(0, len(KEYS) - 1))
sizes_of_parts = st.sampled_from([1, 20, 40, 10_000])
racing = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@racing
@given(mine=some_videos, theirs=some_videos, sizes=st.tuples(sizes_of_parts, sizes_of_parts), puts=st.integers(0, 6))
def test_an_attempt_goes_on_where_another_died(
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    mine: frozenset[int],
    theirs: frozenset[int],
    sizes: tuple[int, int],
    puts: int,
) -> None:
    attempts = Attempts(source, tmp_path_factory.mktemp("out"))
    with contextlib.suppress(Died):
        attempts.run(theirs, sizes[0], put_if_absent=attempts.dies_after(puts))
    commit = attempts.run(mine, sizes[1])
    assert set(assert_each_video_once(attempts, commit)) <= mine | theirs


@racing
@given(
    mine=some_videos,
    theirs=some_videos,
    sizes=st.tuples(sizes_of_parts, sizes_of_parts),
    rival_at=st.sets(st.integers(0, 5), min_size=1),
    rival_puts=st.integers(1, 9),
)
def test_attempts_that_overlap(
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    mine: frozenset[int],
    theirs: frozenset[int],
    sizes: tuple[int, int],
    rival_at: set[int],
    rival_puts: int,
) -> None:
    """Just before some of our writes, a rival writes some objects of its own and dies, or comes to the end."""
    attempts = Attempts(source, tmp_path_factory.mktemp("out"))
    ours = 0

    def put(path: str, data: bytes) -> bool:
        nonlocal ours
        if ours in rival_at:
            with contextlib.suppress(Died):
                attempts.run(theirs, sizes[0], put_if_absent=attempts.dies_after(rival_puts))
        ours += 1
        return attempts.store.put_if_absent(path, data)

    commit = attempts.run(mine, sizes[1], put_if_absent=put)
    assert set(assert_each_video_once(attempts, commit)) <= mine | theirs


@pytest.mark.parametrize("lost", range(5))
def test_a_store_that_fails_once(source: Path, tmp_path: Path, lost: int) -> None:
    """The answer to one write is an error, though the object was put: the next attempt goes on."""
    attempts = Attempts(source, tmp_path)
    puts = 0

    def put(path: str, data: bytes) -> bool:
        nonlocal puts
        done = attempts.store.put_if_absent(path, data)
        puts += 1
        if puts == lost + 1:
            raise StorageError(f"cannot write {path}: connection reset")
        return done

    with pytest.raises(StorageError, match="connection reset"):
        attempts.run(frozenset({1}), 20, put_if_absent=put)
    assert assert_each_video_once(attempts, attempts.run(frozenset({1}), 20)) == [1]
