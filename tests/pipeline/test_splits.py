"""Train and validation: disjoint, complete, a video on one side alone, and that for good."""

import hashlib
from pathlib import Path

import pytest

from pipeline import TokenDataset
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.removal import remove_videos
from pipeline.rewriting import rewrite_parts
from pipeline.row_sets import SPLITS, count_files, read_files, read_rows
from pipeline.splits import is_validation, split_dataset
from tests.rows_for_tests import made_rows, row_groups_of, table_of

COLUMNS = ["id", "source_shard", "source_key"]


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    """48 videos of three rows, some of which go across two row groups."""
    with row_groups_of(5):
        return made_rows(tmp_path / "out", shards=6)


def side_of(dataset: Dataset, split: str) -> dict[str, tuple[str, str]]:
    rows = TokenDataset(dataset.store.root, split=split, columns=COLUMNS)
    found = [(row["id"], (row["source_shard"], row["source_key"])) for row in rows]
    assert len(dict(found)) == len(found)
    return dict(found)


def sides(dataset: Dataset) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    return side_of(dataset, "train"), side_of(dataset, "validation")


def test_the_sides_are_disjoint_and_complete_and_a_video_is_on_one(made: Dataset) -> None:
    done = split_dataset(made, validation=0.25, seed=7)
    train, validation = sides(made)
    table = table_of(made)
    assert not train.keys() & validation.keys() and {*train, *validation} == set(table.column("id").to_pylist())
    videos = set(train.values()), set(validation.values())
    assert not videos[0] & videos[1] and len(videos[0] | videos[1]) == 48
    assert done.rows == {"train": len(train), "validation": len(validation)} and done.added == 36
    assert done.videos == {"train": len(videos[0]), "validation": len(videos[1])}
    assert 5 <= len(videos[1]) <= 20, "a quarter of 48"
    # By hand.
    for shard, key in videos[0] | videos[1]:
        digest = hashlib.sha256(f'[7,"{shard}","{key}"]'.encode()).digest()
        assert ((shard, key) in videos[1]) == (int.from_bytes(digest[:8], "big") / 2**64 < 0.25)


def test_every_row_group_is_named(made: Dataset) -> None:
    split_dataset(made, validation=0.01, seed=0)
    ((rows, footer),) = read_files(made.store, SPLITS)
    assert set(rows) == {(path, group) for path in made.parts() for group in range(3)}
    assert sum(map(len, rows.values())) == footer["rows"].get("validation", 0)
    assert (footer["validation"], footer["seed"]) == (0.01, 0)


def test_what_comes_later_is_divided_then_and_nothing_changes_sides(made: Dataset) -> None:
    split_dataset(made, validation=0.25, seed=0)
    before = read_rows(made.store, SPLITS)[0]
    train, validation = sides(made)
    assert split_dataset(made, validation=0.25, seed=0).added == 0 and count_files(made.store, SPLITS) == 1
    made_rows(Path(made.store.root), shards=2, first_shard=6)
    with pytest.raises(ConfigError, match="4 row groups of snapshot 2 are on neither side"):
        TokenDataset(made.store.root, split="train")
    done = split_dataset(made, validation=0.25, seed=0)
    after = read_rows(made.store, SPLITS)[0]
    assert done.added == 4 and len(after) == len(before) + 4
    assert all(after[place].tolist() == rows.tolist() for place, rows in before.items())
    new_train, new_validation = sides(made)
    assert train.items() <= new_train.items() and validation.items() <= new_validation.items()
    assert done.rows == {"train": len(new_train), "validation": len(new_validation)}
    assert sum(done.videos.values()) == 64


@pytest.mark.parametrize("other", [(0.5, 0), (0.25, 1)])
def test_another_split_is_refused(made: Dataset, other: tuple[float, int]) -> None:
    split_dataset(made, validation=0.25, seed=0)
    share, seed = other
    message = rf"validation 0\.25, seed 0: expected these, found validation {share}, seed {seed}"
    with pytest.raises(ConfigError, match=message):
        split_dataset(made, validation=share, seed=seed)
    assert count_files(made.store, SPLITS) == 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 2, float("nan")])
def test_what_is_no_share(made: Dataset, share: float) -> None:
    with pytest.raises(ConfigError, match="expected a share of the videos above 0 and below 1"):
        split_dataset(made, validation=share, seed=0)
    assert count_files(made.store, SPLITS) == 0


def test_a_larger_share_keeps_the_videos_of_a_smaller_one() -> None:
    videos = [(f"{shard}.tar", f"v{key}") for shard in range(20) for key in range(20)]
    chosen = [{video for video in videos if is_validation(*video, validation=share, seed=0)} for share in (0.1, 0.3)]
    assert chosen[0] < chosen[1] and 90 < len(chosen[1]) < 150
    assert chosen[0] != {video for video in videos if is_validation(*video, validation=0.1, seed=1)}


def test_removed_rows_are_on_no_side(made: Dataset) -> None:
    split_dataset(made, validation=0.25, seed=0)
    train, validation = sides(made)
    remove_videos(made, ["v1", "v2"])
    for act in (lambda: None, lambda: list(rewrite_parts(made, remove=True))):
        act()
        for before, after in zip((train, validation), sides(made), strict=True):
            assert after == {row_id: video for row_id, video in before.items() if video[1] not in ("v1", "v2")}


def test_a_dataset_that_lost_rows_can_be_divided(made: Dataset) -> None:
    remove_videos(made, ["v0", "v1", "v2", "v3"])  # all of each shard's first part
    list(rewrite_parts(made, remove=True))
    done = split_dataset(made, validation=0.25, seed=0)
    assert done.added == 36 and sum(done.rows.values()) == 72 and sum(done.videos.values()) == 24
    train, validation = sides(made)
    assert {*train, *validation} == set(table_of(made).column("id").to_pylist())
