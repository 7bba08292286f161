"""Snapshots and what is added to them: each commit once, whoever writes beside, and little left out of them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.job import _SnapshotKeeper
from pipeline.parts import read_table
from pipeline.records import Shard
from pipeline.shard_log import commit_path
from pipeline.shard_table import ShardTable
from pipeline.snapshots import add_to_snapshot, newest_snapshot
from pipeline.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def commit_of(number: int) -> dict[str, Any]:
    return {
        "shard_id": f"shard-{number:05d}",
        "format_version": 1,
        "fingerprint": "f",
        "source": {"path": f"{number}.tar", "size_bytes": 1, "etag": None},
        "parts": [],
        "rejects": None,
        "rejects_by_class": {"limit": number},
        "videos": number,
        "video_bytes": 0,
        "rows": 0,
        "tokens": 0,
        "statistics": None,
    }


def commits_of(*numbers: int) -> list[dict[str, Any]]:
    return [commit_of(number) for number in numbers]


def files(store: Store) -> list[str]:
    return [info.path for info in store.list("_snapshots")]


def newest(store: Store) -> list[dict[str, Any]]:
    return list(newest_snapshot(store, strict=True).commits())


def test_each_file_has_what_those_before_it_lack(store: Store) -> None:
    first = add_to_snapshot(store, commits_of(3), newest_snapshot(store))
    second = add_to_snapshot(store, commits_of(3, 2, 1), first)
    assert add_to_snapshot(store, commits_of(1, 2, 3), second).number == 2, "nothing is new"
    assert files(store) == [f"_snapshots/0000000{number}.parquet" for number in (1, 2)]
    assert newest(store) == commits_of(1, 2, 3)
    for snapshot in (second, newest_snapshot(store), newest_snapshot(store, first, ids_alone=True)):
        assert (snapshot.number, sorted(snapshot.ids.to_pylist())) == (2, [f"shard-0000{n}" for n in (1, 2, 3)])
    # So an older one can be named by its number.
    assert read_table(store.read(files(store)[0])).num_rows == 1


@pytest.mark.parametrize("how", ["torn", "gone"])
@pytest.mark.parametrize("spoilt", [1, 2])
def test_what_cannot_be_read_is_made_up_for(
    store: Store, spoilt: int, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_to_snapshot(store, commits_of(1, 2), newest_snapshot(store))
    add_to_snapshot(store, commits_of(3), newest_snapshot(store))
    path, left = f"_snapshots/0000000{spoilt}.parquet", commits_of(3) if spoilt == 1 else commits_of(1, 2)
    store.put(path, b"torn") if how == "torn" else store.delete(path)
    read = newest_snapshot(store)
    assert list(read.commits()) == left
    assert (f"{path} cannot be read" in caplog.text) == (how == "torn")
    add_to_snapshot(store, commits_of(1, 2, 3, 4), read)
    assert list(newest_snapshot(store).commits()) == commits_of(1, 2, 3, 4)
    if how == "torn":
        with pytest.raises(ConfigError, match=rf"{path}: is not a snapshot of ours"):
            newest_snapshot(store, strict=True)


def test_a_damaged_commit_of_another_ends_no_run(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    shards = [Shard(shard_id=commit["shard_id"], path="", size_bytes=1, etag=None) for commit in commits_of(1, 2)]
    store.put(commit_path(shards[0].shard_id), json.dumps({"shard_id": shards[0].shard_id}).encode())
    store.put(commit_path(shards[1].shard_id), json.dumps(commit_of(2)).encode())
    keeper = _SnapshotKeeper(Dataset(store, {}), newest_snapshot(store))
    keeper.add(commit_of(2))
    keeper.complete(ShardTable.of(shards))
    assert newest(store) == commits_of(2)
    assert (
        "no snapshot was written" in caplog.text
        and "shard-00001.json: is not a commit of ours: it lacks" in caplog.text
    )


def test_of_two_drivers_each_adds_what_the_other_lacks(store: Store) -> None:
    mine = theirs = newest_snapshot(store)
    mine = add_to_snapshot(store, commits_of(1, 2), mine)
    theirs = add_to_snapshot(store, commits_of(2, 3), theirs)
    assert len(theirs.ids) == 3
    mine = add_to_snapshot(store, commits_of(5), mine)
    assert (mine.number, newest(store)) == (3, commits_of(1, 2, 3, 5))


def test_of_writers_at_once_none_loses_a_commit(store: Store) -> None:
    """Whoever finds the next number taken takes the one after it; a shard that two of them did comes out once."""
    empty = newest_snapshot(store)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: add_to_snapshot(store, commits_of(number, number + 1), empty), range(16)))
    assert newest(store) == commits_of(*range(17))


def test_files_grow_with_the_dataset(store: Store) -> None:
    """Some 300 of them for a million commits, of which a driver that dies leaves a fiftieth in none."""
    snapshot = newest_snapshot(store)
    assert snapshot.of_a_file == 100
    assert add_to_snapshot(store, commits_of(*range(10_000)), snapshot).of_a_file == 200


def test_a_driver_that_dies_leaves_few_commits_in_no_snapshot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(store, {})
    keeper = _SnapshotKeeper(dataset, newest_snapshot(store))
    for commit in commits_of(*range(250)):
        store.put(commit_path(commit["shard_id"]), json.dumps(commit).encode())
        keeper.add(commit)
    left = newest_snapshot(store, ids_alone=True)  # it dies here
    assert (left.number, len(left.ids)) == (2, 200)
    shards = [
        Shard(shard_id=commit["shard_id"], path="", size_bytes=1, etag=None) for commit in commits_of(*range(251))
    ]
    read: list[str] = []
    real = Store.read_if_there
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read_if_there", lambda store, path: read.append(path) or real(store, path))
        _SnapshotKeeper(dataset, left).complete(ShardTable.of(shards))
    assert sorted(read) == [commit_path(commit["shard_id"]) for commit in commits_of(*range(200, 250))]
    assert newest(store) == commits_of(*range(250))


def test_a_driver_keeps_few_parts(store: Store) -> None:
    """Where shards have many, commits are written sooner than by hundreds."""
    part = {"path": "p", "size_bytes": 1, "rows": 1, "sha256": "s", "row_groups": [1]}
    keeper = _SnapshotKeeper(Dataset(store, {}), newest_snapshot(store))
    for commit in commits_of(*range(11)):
        keeper.add({**commit, "parts": [part] * 2500})
    assert [read_table(store.read(path)).num_rows for path in files(store)] == [4, 4]


def test_additions_that_the_store_refuses_are_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def refuse(_: Store, path: str, __: bytes) -> bool:
        refused.append(path)
        raise StorageError("no room")

    keeper = _SnapshotKeeper(Dataset(store, {}), newest_snapshot(store))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_if_absent", refuse)
        for commit in commits_of(*range(250)):
            keeper.add(commit)
    assert len(refused) == 2, "once for each hundred, not for each commit"
    for commit in commits_of(*range(250, 300)):
        keeper.add(commit)
    assert newest(store) == commits_of(*range(300)) and len(files(store)) == 1
