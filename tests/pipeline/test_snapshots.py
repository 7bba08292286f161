"""Snapshots and what is added to them: each commit once, whoever writes beside, and little left out of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.job import _SnapshotKeeper
from pipeline.records import Shard
from pipeline.shard_log import commit_path
from pipeline.snapshots import add_to_snapshot, newest_snapshot, write_snapshot
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


def test_additions_are_part_of_the_snapshot_until_the_next_one(store: Store) -> None:
    before = add_to_snapshot(store, commits_of(3), newest_snapshot(store))
    assert (before.number, before.additions, before.added) == (0, 1, 1)
    snapshot = write_snapshot(store, commits_of(2))
    snapshot = add_to_snapshot(store, commits_of(1, 2), snapshot)
    snapshot = add_to_snapshot(store, commits_of(1, 2, 3), snapshot)
    assert files(store) == [f"_snapshots/{name}.parquet" for name in ("00000000-0001", "00000001-0001", "00000001")]
    for read in (snapshot, newest_snapshot(store)):
        assert (read.number, read.additions, read.added) == (1, 1, 1)
        assert list(read.commits()) == commits_of(1, 2, 3)
    last = write_snapshot(store, [], snapshot)
    assert (last.number, last.additions, list(last.commits())) == (2, 0, commits_of(1, 2, 3))
    assert write_snapshot(store, [], last) is last, "nothing is new"
    store.put("_snapshots/00000002-0001.parquet", b"torn")
    with pytest.raises(ConfigError, match=r"00000002-0001\.parquet: is not a snapshot of ours"):
        newest_snapshot(store, strict=True)


@pytest.mark.parametrize(
    ("spoilt", "left"),
    [
        ("00000002-0001", [1, 2, 3, 5]),  # 4 was added by it
        ("00000002-0002", [1, 2, 3, 4]),
        ("00000002", [1, 2, 3, 4, 5]),  # the one before it and its addition have all but nothing
        ("00000001", [1, 2, 3, 4, 5]),
    ],
)
@pytest.mark.parametrize("how", ["torn", "gone"])
def test_what_cannot_be_read_is_made_up_for(
    store: Store, spoilt: str, left: list[int], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_snapshot(store, commits_of(1))
    add_to_snapshot(store, commits_of(2, 3), newest_snapshot(store))
    write_snapshot(store, [])
    for number in (4, 5):
        add_to_snapshot(store, commits_of(number), newest_snapshot(store))
    path = f"_snapshots/{spoilt}.parquet"
    store.put(path, b"torn") if how == "torn" else store.delete(path)
    read = newest_snapshot(store)
    assert list(read.commits()) == commits_of(*left)
    assert (f"{path} cannot be read" in caplog.text) == (how == "torn" and spoilt != "00000001")
    # Additions go on behind the last, whatever is missing, and the next snapshot is whole.
    more = add_to_snapshot(store, commits_of(6), read)
    assert list(more.commits()) == commits_of(*left, 6)
    last = write_snapshot(store, commits_of(1, 2, 3, 4, 5, 6), more)
    assert list(newest_snapshot(store, strict=True).commits()) == commits_of(1, 2, 3, 4, 5, 6) and last.is_whole


def test_a_damaged_commit_of_another_ends_no_run(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    shards = [Shard(shard_id=commit["shard_id"], path="", size_bytes=1, etag=None) for commit in commits_of(1, 2)]
    store.put(commit_path(shards[0].shard_id), json.dumps({"shard_id": shards[0].shard_id}).encode())
    store.put(commit_path(shards[1].shard_id), json.dumps(commit_of(2)).encode())
    keeper = _SnapshotKeeper(Dataset(store, {}), newest_snapshot(store))
    keeper.add(commit_of(2))
    keeper.complete(shards)
    assert (
        "no snapshot was written" in caplog.text
        and "shard-00001.json: is not a commit of ours: it lacks" in caplog.text
    )


def test_of_two_drivers_each_adds_to_what_the_other_wrote(store: Store) -> None:
    mine = theirs = newest_snapshot(store)
    mine = add_to_snapshot(store, commits_of(1, 2), mine)
    theirs = add_to_snapshot(store, commits_of(2, 3), theirs)
    assert list(theirs.commits()) == commits_of(1, 2, 3)
    write_snapshot(store, commits_of(4), theirs)
    mine = add_to_snapshot(store, commits_of(5), mine)
    assert (mine.number, list(mine.commits())) == (1, commits_of(1, 2, 3, 4, 5))


def test_a_driver_that_dies_leaves_few_commits_in_no_snapshot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(store, {})
    keeper = _SnapshotKeeper(dataset, newest_snapshot(store))
    for commit in commits_of(*range(1250)):
        store.put(commit_path(commit["shard_id"]), json.dumps(commit).encode())
        keeper.add(commit)
    # It dies here. After a thousand a new one was written; two hundred were added to that.
    left = newest_snapshot(store)
    assert (left.number, left.additions, left.added, left.table.num_rows) == (1, 2, 200, 1200)
    shards = [
        Shard(shard_id=commit["shard_id"], path="", size_bytes=1, etag=None) for commit in commits_of(*range(1251))
    ]
    read: list[str] = []
    real = Store.read_if_there
    monkeypatch.setattr(Store, "read_if_there", lambda store, path: read.append(path) or real(store, path))
    _SnapshotKeeper(dataset, left).complete(shards)
    assert sorted(read) == [commit_path(commit["shard_id"]) for commit in commits_of(*range(1200, 1250))]
    assert list(newest_snapshot(store).commits()) == commits_of(*range(1250))


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
    assert list(newest_snapshot(store).commits()) == commits_of(*range(300))
