"""Takedown: what is removed comes from nowhere any more, nothing else is missing, and it goes from the parts too."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import TokenDataset
from pipeline.dataset import Dataset
from pipeline.errors import CommitConflict, ConfigError, StorageError
from pipeline.reading.parts import PartReader
from pipeline.removal import read_removals, remove_videos
from pipeline.rewriting import rewrite_parts
from pipeline.row_sets import REMOVED, add_rows, count_files, read_files, read_rows
from pipeline.snapshots import newest_snapshot
from pipeline.storage import Store
from pipeline.verify import verify_dataset
from tests.rows_for_tests import made_rows, row_groups_of, table_of

ROWS_OF_A_GROUP = 5  # videos have 3 rows, so some go across two groups


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    """Three shards of two parts of four videos (v0 to v7 in each shard) of three clips."""
    with row_groups_of(ROWS_OF_A_GROUP):
        dataset = made_rows(tmp_path / "out")
    assert [part["row_groups"] for commit in dataset.commits() for part in commit["parts"]] == [[5, 5, 2]] * 6
    return dataset


def places_of(table: pa.Table, *keys: str, shard: str | None = None) -> dict[tuple[str, int], list[int]]:
    """By hand: where the rows of some videos are."""
    found: dict[tuple[str, int], list[int]] = {}
    for row in table.select(["part", "row_group", "number", "source_key", "source_shard"]).to_pylist():
        if row["source_key"] in keys and shard in (None, row["source_shard"]):
            found.setdefault((row["part"], row["row_group"]), []).append(row["number"])
    return found


def removed_rows(dataset: Dataset) -> dict[tuple[str, int], list[int]]:
    return {place: rows.tolist() for place, rows in read_rows(dataset.store, REMOVED)[0].items()}


def erase(dataset: Dataset) -> list[str]:
    return [part.path for part in rewrite_parts(dataset, remove=True)]


def given(dataset: Dataset, **options: Any) -> list[str]:
    """The ids that a reader gets."""
    return [row["id"] for row in TokenDataset(dataset.store.root, **options)]


def test_all_rows_of_a_key_are_removed_and_only_they(made: Dataset) -> None:
    table = table_of(made)
    done = remove_videos(made, ["v1", "v6"])
    assert (done.rows, done.videos, done.before, done.unknown) == (18, 6, [], [])
    assert removed_rows(made) == places_of(table, "v1", "v6")
    ((_, footer),) = read_files(made.store, REMOVED)
    assert footer["keys"] == ["v1", "v6"] and footer["source_shard"] is None
    assert footer["date"] == datetime.now(UTC).date().isoformat()
    left = [row["id"] for row in table.to_pylist() if row["source_key"] not in ("v1", "v6")]
    assert sorted(given(made)) == sorted(left) and len(left) == 54
    assert verify_dataset(made, deep=True).problems == [] and verify_dataset(made).removed == 18


def test_of_one_source_shard_alone(made: Dataset) -> None:
    table = table_of(made)
    assert remove_videos(made, ["v1"], source_shard="1.tar").rows == 3
    assert removed_rows(made) == places_of(table, "v1", shard="1.tar")
    with pytest.raises(ConfigError, match=r"--shard 9\.tar: nothing of it is committed"):
        remove_videos(made, ["v1"], source_shard="9.tar")


def test_twice_is_once_and_a_dry_run_is_none(made: Dataset) -> None:
    shutil.rmtree(Path(made.store.root, "_snapshots"))
    before = sorted(info.path for info in made.store.list(recursive=True))
    assert remove_videos(made, ["v1", "v2"], dry_run=True).rows == 18
    assert sorted(info.path for info in made.store.list(recursive=True)) == before
    remove_videos(made, ["v1"])
    again = remove_videos(made, ["v1", "v2"])
    assert (again.rows, again.before) == (9, ["v1"])
    nothing = remove_videos(made, ["v1", "v2"])
    assert (nothing.rows, nothing.videos, nothing.before) == (0, 0, ["v1", "v2"]) and count_files(
        made.store, REMOVED
    ) == 2
    erase(made)
    assert remove_videos(made, ["v2"]).before == ["v2"], "though no row of it is anywhere now"


def test_a_key_without_rows_is_named(made: Dataset) -> None:
    done = remove_videos(made, ["v1", "nope", "v1"])
    assert (done.rows, done.unknown) == (9, ["nope"])
    for shard in (None, "1.tar"):
        with pytest.raises(ConfigError, match=r"'nope': no committed row of .* has this source key"):
            remove_videos(made, ["nope"], source_shard=shard)
    assert count_files(made.store, REMOVED) == 1
    remove_videos(made, ["v2"], source_shard="0.tar")
    with pytest.raises(ConfigError, match="'other'"):
        remove_videos(made, ["other"])
    assert remove_videos(made, ["v2"], source_shard="1.tar").rows == 3, "that of another shard was not removed before"
    made_rows(Path(made.store.root), first_shard=3, shards=1, videos=1)  # v0 and v1
    with pytest.raises(ConfigError, match=r"'v2': no committed row of 3\.tar in "):
        remove_videos(made, ["v2"], source_shard="3.tar")


def test_what_no_snapshot_has_yet_is_removed_too(made: Dataset) -> None:
    shutil.rmtree(Path(made.store.root, "_snapshots"))
    assert remove_videos(made, ["v3"]).rows == 9
    assert len(newest_snapshot(made.store).ids) == 3
    assert len(given(made)) == 72 - 9


def test_what_comes_later_is_there_until_it_is_removed(made: Dataset) -> None:
    remove_videos(made, ["v3"])
    erase(made)
    made_rows(Path(made.store.root), first_shard=3, shards=1)
    assert [row["source_shard"] for row in table_of(made).to_pylist() if row["source_key"] == "v3"] == ["3.tar"] * 3
    done = remove_videos(made, ["v3"])
    assert (done.rows, done.before) == (3, [])


def test_no_part_is_read_whole_to_find_rows(made: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = table_of(made).to_pylist()[40]
    real, ranges = Store.read_if_there, []

    def read_if_there(store: Store, path: str) -> bytes | None:
        assert not path.startswith("data/"), path
        return real(store, path)

    def read_range(store: Store, path: str, start: int, end: int) -> bytes:
        data = Path(store.root, path).read_bytes()
        ranges.append((path, start, end))
        return data[start:end]

    monkeypatch.setattr(Store, "read_if_there", read_if_there)
    monkeypatch.setattr(Store, "read_range", read_range)
    monkeypatch.setattr("pipeline.reading.parts._TAIL_BYTES", 8)
    found = made.find_row(wanted["id"])
    assert found == {name: wanted[name] for name in found} and found["tokens"] == wanted["tokens"]
    assert {path for path, *ends in ranges if reads_tokens(made, path, *ends)} == {wanted["part"]}
    ranges.clear()
    remove_videos(made, ["v1"], dry_run=True)
    assert len({path for path, *_ in ranges}) == 6
    assert not [path for path, *ends in ranges if reads_tokens(made, path, *ends)]


def reads_tokens(dataset: Dataset, path: str, start: int, end: int) -> bool:
    """Whether a range of a part has bytes of tokens."""
    metadata = pq.read_metadata(Path(dataset.store.root, path))
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    begins = [column.data_page_offset for column in columns if column.path_in_schema.startswith("tokens")]
    assert len(begins) == len(groups)
    return any(start <= begin < end for begin in begins)


def test_a_removed_row_is_not_found_before_and_after_it_is_erased(made: Dataset) -> None:
    rows = table_of(made).to_pylist()
    remove_videos(made, ["v0", "v5"])
    for act in (lambda: None, lambda: erase(made)):
        act()
        for row in rows[::2]:
            if row["source_key"] in ("v0", "v5"):
                with pytest.raises(ConfigError, match="no committed row has the id"):
                    made.find_row(row["id"])
            else:
                found = made.find_row(row["id"])
                assert found == {name: row[name] for name in found}


def everything_in(path: Path) -> str:
    """All that a part says, decompressed: values, dictionaries with what no row names, statistics, the footer."""
    names = [name for name in pq.read_schema(path).names if name in ("caption", "metadata", "source_key", "id")]
    with pq.ParquetFile(path, read_dictionary=names) as file:
        said = [repr(file.metadata.metadata), repr(file.schema_arrow.metadata)]
        for group in range(file.num_row_groups):
            said.append(repr(file.metadata.row_group(group).to_dict()))
            table = file.read_row_group(group)
            for name in names:
                said += [repr(chunk.dictionary.to_pylist()) for chunk in table.column(name).chunks]
            said.append(repr(table.to_pylist()))
    return "".join(said)


def test_nothing_of_a_removed_row_stays_in_its_part(made: Dataset) -> None:
    paths = [Path(made.store.root, path) for path in made.parts()]
    before = {path: (path.read_bytes(), table_of(made)) for path in paths}
    rows = table_of(made).to_pylist()
    texts = [f"Caption of {shard}.tar 1." for shard in range(3)]
    assert all(any(text in everything_in(path) for path in paths) for text in texts)
    remove_videos(made, ["v1"])
    assert [part.rows for part in rewrite_parts(made, remove=False)] == [3, 3, 3]
    assert all(path.read_bytes() == before[path][0] for path in paths), "only shown"
    assert erase(made) == [str(path.relative_to(made.store.root)) for path in paths[::2]]
    gone = [row["id"] for row in rows if row["source_key"] == "v1"]
    for path in paths:
        said = everything_in(path)
        assert not any(text in said for text in [*texts, *gone, "'v1'"])
    assert all(path.read_bytes() == before[path][0] for path in paths[1::2]), "which lost nothing"
    left = [row for row in rows if row["source_key"] != "v1"]
    columns = [name for name in table_of(made).column_names if name not in ("row_group", "number")]
    assert [{name: row[name] for name in columns} for row in table_of(made).to_pylist()] == [
        {name: row[name] for name in columns} for row in left
    ]
    assert erase(made) == [] and verify_dataset(made, deep=True).problems == []


def test_row_groups_keep_their_bounds_and_the_footer_says_what_is_gone(made: Dataset) -> None:
    path = next(iter(made.parts()))
    committed = json.loads(pq.read_metadata(Path(made.store.root, path)).metadata[b"vidtok"])

    def standing() -> tuple[list[int], dict[str, Any]]:
        metadata = pq.read_metadata(Path(made.store.root, path))
        footer = json.loads(metadata.metadata[b"vidtok"])
        said = footer.pop("rewritten")
        assert footer == committed and said["row_groups"] == [5, 5, 2]
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], said["removed"]

    remove_videos(made, ["v1"], source_shard="0.tar")
    erase(made)
    assert standing() == ([3, 4, 2], {"0": [3, 4], "1": [0]})
    remove_videos(made, ["v2", "v3"], source_shard="0.tar")
    erase(made)
    assert standing() == ([3], {"0": [3, 4], "1": [0, 1, 2, 3, 4], "2": [0, 1]})
    remove_videos(made, ["v0"], source_shard="0.tar")
    erase(made)
    assert standing() == ([], {"0": [0, 1, 2, 3, 4], "1": [0, 1, 2, 3, 4], "2": [0, 1]})
    assert pq.read_table(Path(made.store.root, path)).num_rows == 0
    verdict = verify_dataset(made, deep=True)
    assert (verdict.problems, verdict.rows, verdict.removed) == ([], 72, 12)
    assert len(given(made)) == 60
    assert set(pq.read_schema(Path(made.store.root, path)).names) == set(table_of(made).column_names) - {
        "part", "row_group", "number"
    }  # fmt: skip


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_part_that_cannot_be_rewritten_keeps_no_other_from_it(made: Dataset, how: str) -> None:
    remove_videos(made, ["v1"])
    first, *others = [path for path in made.parts() if path.endswith("-p000.parquet")]
    part = Path(made.store.root, first)
    if how == "gone":
        part.unlink()
    else:
        data = bytearray(part.read_bytes())
        data[100] ^= 1
        part.write_bytes(data)
    found = rewrite_parts(made, remove=True)
    assert [next(found).path for _ in others] == others
    with pytest.raises(CommitConflict, match=first):
        next(found)
    assert all(
        "rewritten" in json.loads(pq.read_metadata(Path(made.store.root, path)).metadata[b"vidtok"]) for path in others
    )


def test_a_rewrite_that_breaks_off_is_gone_on_with(made: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_videos(made, ["v1", "v5"])
    expected = sorted(given(made))
    real, written = Store.put, []

    def put(store: Store, path: str, data: bytes) -> None:
        if len(written) == 2:
            raise StorageError("the store is gone")
        written.append(path)
        real(store, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", put)
        with pytest.raises(StorageError, match="the store is gone"):
            erase(made)
    assert verify_dataset(made, deep=True).problems == [] and sorted(given(made)) == expected
    assert len(erase(made)) == 4, "of six parts two were done"
    assert verify_dataset(made, deep=True).problems == [] and sorted(given(made)) == expected


def test_a_damaged_part_is_not_covered_up(made: Dataset) -> None:
    path = Path(made.store.root, next(iter(made.parts())))
    damaged = path.read_bytes().replace(b'"attempt_id": "a', b'"attempt_id": "b')
    path.write_bytes(damaged)
    remove_videos(made, ["v1"])
    with pytest.raises(CommitConflict, match="is not what was committed"):
        erase(made)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("grids", [[(2, 3, 4)], [(2, 3, 4), (1, 3, 4)]], ids=["one shape", "two shapes"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_training_goes_on_without_what_was_removed(tmp_path: Path, grids: Any, batch_size: int | None) -> None:
    """Rows that are left come where they would have come; others stand in for those that are gone."""
    with row_groups_of(ROWS_OF_A_GROUP):
        made = made_rows(tmp_path / "out", grids=grids)
    root = made.store.root
    begun = TokenDataset(root, seed=3, batch_size=batch_size)
    source = iter(begun)
    for _ in range(4):
        next(source)
    state = begun.state_dict()
    rest = [item["id"] for item in source]
    keys = {row["id"]: row["source_key"] for row in table_of(made).to_pylist()}
    remove_videos(made, ["v1", "v2", "v3"])
    found = []
    for act in (lambda: None, lambda: erase(made)):
        act()
        going_on = TokenDataset(root, seed=3, batch_size=batch_size)
        going_on.load_state_dict(state)
        found.append([item["id"] for item in going_on])
    for ids in found:
        assert len(ids) == len(rest)
        for before, after in zip(rest, ids, strict=True):
            pair = (before, after) if batch_size else ([before], [after])
            kept = [row_id for row_id in pair[0] if keys[row_id] not in ("v1", "v2", "v3")]
            assert pair[1][: len(kept)] == kept and len(pair[1]) == len(pair[0])
            assert not {keys[row_id] for row_id in pair[1]} & {"v1", "v2", "v3"}
    assert found[0] == found[1]


def test_a_reader_that_is_open_while_a_part_is_written_anew_goes_on(made: Dataset) -> None:
    """It knows the old footer, which fits no more."""
    root = made.store.root
    keys = {row["id"]: row["source_key"] for row in table_of(made).to_pylist()}
    reader = TokenDataset(root, shuffle=False, read_ahead=0, lanes=1)
    items = iter(reader)
    first = [next(items)["id"] for _ in range(2)]
    remove_videos(made, ["v1"])
    erase(made)
    rest = [item["id"] for item in items]
    ids = first + rest
    unbroken = [row_id for row_id in keys if keys[row_id] != "v1"]
    in_memory = [row_id for row_id in ids[:5] if keys[row_id] == "v1"]  # of the row group that it had read by then
    assert [row_id for row_id in dict.fromkeys(ids) if row_id not in in_memory] == unbroken
    assert not any(keys[row_id] == "v1" for row_id in ids[5:])


@pytest.mark.parametrize("first", range(4))
def test_an_old_footer_finds_no_other_rows_in_the_same_place(tmp_path: Path, first: int) -> None:
    """The first row group goes, and the second stands where it stood, as large as it was: checksums find nothing."""
    with row_groups_of(4):
        made = made_rows(tmp_path / "out", shards=1, parts=1, videos=6, clips=4, first_shard=first, captions=False)
    (part,) = next(iter(made.commits()))["parts"]
    reader = PartReader(made.store)

    def read() -> list[Any]:
        groups = range(len(part["row_groups"]))
        return [reader.read(part["path"], group, ["id"], size_bytes=part["size_bytes"]) for group in groups]

    before = read()
    remove_videos(made, ["v0"])
    erase(made)
    gone, *others = read()
    assert len(gone.table) == len(gone.kept) == 0
    assert [group.table for group in others] == [group.table for group in before[1:]]


def test_removals_of_two_at_once_count_once(made: Dataset) -> None:
    remove_videos(made, ["v1"])
    ((rows, footer),) = read_files(made.store, REMOVED)
    add_rows(made.store, REMOVED, rows.items(), footer)
    erase(made)
    assert verify_dataset(made, deep=True).problems == []
    removals = read_removals(made.store)
    assert sum(sum(counts.values()) for counts in removals.videos.values()) == 3
    assert sum(map(len, removals.rows.values())) == 9 == np.sum([len(rows) for rows in rows.values()])
