"""Datasets of one plan become one, whatever dies meanwhile; what differs is refused before anything is copied."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import TokenDataset
from pipeline.dataset import Dataset
from pipeline.errors import CommitConflict, ConfigError, StorageError
from pipeline.inputs import grow_inputs, read_inputs
from pipeline.job import run_job
from pipeline.merging import merge_datasets
from pipeline.records import Shard
from pipeline.removal import remove_videos
from pipeline.rewriting import rewrite_parts
from pipeline.snapshots import newest_snapshot
from pipeline.splits import split_dataset
from pipeline.storage import Store, open_store
from pipeline.verify import verify_dataset
from tests.jobs_for_tests import job
from tests.made_dataset import config_of, dataset_of, pack_input
from tests.media import gradient_frames, make_video
from tests.rows_for_tests import made_rows, table_of


@pytest.fixture
def two(tmp_path: Path) -> list[Dataset]:
    return [made_rows(tmp_path / "a", shards=2), made_rows(tmp_path / "b", shards=2, first_shard=2)]


@pytest.fixture
def out(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def ids_of(*datasets: Dataset) -> list[str]:
    return [row_id for dataset in datasets for row_id in table_of(dataset).column("id").to_pylist()]


def objects(store: Store) -> dict[str, bytes]:
    """But the runs' records."""
    return {
        info.path: store.read(info.path)
        for info in store.list(recursive=True)
        if not info.path.startswith(("_runs/", "_tmp/"))
    }


def problems(out: Store) -> list[str]:
    """What verify says, but of parts of a shard that is being copied."""
    said = verify_dataset(Dataset.open(out), deep=True).problems
    return [line for line in said if "the next run goes on from it" not in line]


def test_all_rows_of_both_are_in_one(two: list[Dataset], out: Store) -> None:
    done = merge_datasets(out, two)
    assert (done.shards, done.standing, done.rows) == (4, 0, 96)
    merged = Dataset.open(out)
    assert sorted(ids_of(merged)) == sorted(ids_of(*two)) and len(set(ids_of(merged))) == 96
    verdict = verify_dataset(merged, deep=True)
    assert (verdict.problems, verdict.shards, verdict.rows, verdict.uncommitted) == ([], 4, 96, 0)
    assert len(newest_snapshot(out).ids) == 4 and merged.description == two[0].description
    assert [row["id"] for row in TokenDataset(out.root, shuffle=False)] == ids_of(merged)
    for dataset in two:
        for path, data in objects(dataset.store).items():
            if path.startswith(("data/", "_commits/")):
                assert out.read(path) == data


def test_twice_is_once_and_more_can_come(two: list[Dataset], out: Store, tmp_path: Path) -> None:
    merge_datasets(out, two[:1])
    before = objects(out)
    again = merge_datasets(out, [two[0], two[0]])
    assert (again.shards, again.standing) == (0, 4) and objects(out) == before
    assert merge_datasets(out, two).shards == 2
    assert sorted(ids_of(Dataset.open(out))) == sorted(ids_of(*two)) and problems(out) == []


def test_what_has_another_plan_is_refused(two: list[Dataset], out: Store, tmp_path: Path) -> None:
    other = made_rows(tmp_path / "c", shards=1, first_shard=9, model="vidtok_fsq_causal_488_32768")
    with pytest.raises(ConfigError) as caught:
        merge_datasets(out, [*two, other])
    assert caught.value.problems[0] == "only datasets of one plan can be merged:"
    levels = [dataset.description["model"]["config"]["fsq_levels"] for dataset in (two[0], other)]
    line = f"model.config.fsq_levels: {two[0].store.root} has {levels[0]}, {other.store.root} has {levels[1]}"
    assert any(line in problem for problem in caught.value.problems)
    assert objects(out) == {}
    merge_datasets(out, [other])
    with pytest.raises(ConfigError, match="only datasets of one plan"):
        merge_datasets(out, two)
    with pytest.raises(ConfigError, match="no dataset to merge"):
        merge_datasets(out, [])


def test_shards_of_one_name_that_differ_are_refused(two: list[Dataset], out: Store, tmp_path: Path) -> None:
    """Equal ones are one."""
    other = made_rows(tmp_path / "c", shards=2, first_shard=1, videos=5)  # s1 and s2, with other rows
    with pytest.raises(ConfigError) as caught:
        merge_datasets(out, [*two, other])
    said = "\n".join(caught.value.problems)
    assert f"s1-0000000001: of 1.tar, in {two[0].store.root} and in {other.store.root}" in said
    assert f"s2-0000000002: of 2.tar, in {two[1].store.root} and in {other.store.root}" in said and "s0-" not in said
    assert objects(out) == {}
    equal = made_rows(tmp_path / "d", shards=2, first_shard=1)
    done = merge_datasets(out, [*two, equal])
    assert (done.shards, done.standing) == (4, 2) and problems(out) == []


def test_a_shard_that_the_input_lists_with_another_source_is_refused(two: list[Dataset], out: Store) -> None:
    merge_datasets(out, two[:1])
    other = Shard(shard_id="s2-0000000002", path="2.tar", size_bytes=9, etag=None)
    grow_inputs(out, lambda standing: [] if other in list(standing) else [other])
    with pytest.raises(ConfigError, match=r"s2-0000000002: of .*, and listed as"):
        merge_datasets(out, two)


class Dies:
    """A store of which the n-th write into a folder fails, and all behind it, as of a process that died."""

    def __init__(self, patch: pytest.MonkeyPatch, root: str, number: int) -> None:
        self.root, self.left = root, number
        for name in ("put", "put_if_absent"):
            patch.setattr(Store, name, self._counted(getattr(Store, name)))

    def _counted(self, real: Any) -> Any:
        def write(store: Store, path: str, data: bytes) -> Any:
            if store.root == self.root and not path.startswith(("_runs/", "_probe/")):
                self.left -= 1
                if self.left < 0:
                    raise StorageError(f"dead at {path}")
            return real(store, path, data)

        return write


def test_wherever_it_dies_what_is_committed_is_whole_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made_rows(tmp_path / "a", shards=2)
    second = made_rows(tmp_path / "b", shards=1, first_shard=2)
    remove_videos(first, ["v1"])
    list(rewrite_parts(first, remove=True))
    split_dataset(first, validation=0.25, seed=0)
    monkeypatch.setattr("pipeline.merging._AT_ONCE", 1)
    whole = open_store(str(tmp_path / "whole"))
    merge_datasets(whole, [first, second])
    writes = len(objects(whole))
    assert writes == 1 + 1 + 1 + 3 * 3 + 1 + 1, "dataset.json, inputs, removals, parts and commits, snapshot, split"
    for number in range(writes):
        store = open_store(str(tmp_path / f"out{number}"))
        with monkeypatch.context() as patch:
            Dies(patch, store.root, number)
            with pytest.raises(StorageError, match="dead at"):
                merge_datasets(store, [first, second])
        if number:
            assert problems(store) == []
            committed = Counter(shard["shard_id"] for shard in Dataset.open(store).commits())
            rows = sum(max(0, len(TokenDataset(store.root))) for _ in [0] if newest_snapshot(store).number)
            assert rows in (0, 72 - 6) and max(committed.values(), default=1) == 1
        merge_datasets(store, [first, second])
        assert objects(store) == objects(whole), number
        assert verify_dataset(Dataset.open(store), deep=True).problems == []


def test_removals_and_splits_come_along(two: list[Dataset], out: Store) -> None:
    for dataset in two:
        split_dataset(dataset, validation=0.25, seed=3)
    sides = {
        split: [{row["id"] for row in TokenDataset(d.store.root, split=split)} for d in two]
        for split in ("train", "validation")
    }
    remove_videos(two[0], ["v1"])
    list(rewrite_parts(two[0], remove=True))
    remove_videos(two[1], ["v2"])
    gone = {row["id"] for row in table_of(two[1]).to_pylist() if row["source_key"] == "v2"}
    merge_datasets(out, two)
    for split, (left, right) in sides.items():
        ids = {row["id"] for row in TokenDataset(out.root, split=split)}
        assert ids == (left | right) - gone - ((left | right) - set(ids_of(*two)))
    merged = Dataset.open(out)
    assert problems(out) == [] and verify_dataset(merged).removed == 12
    assert remove_videos(merged, ["v1", "v2"]).rows == 12, "of the two shards each of which nobody removed it"
    assert [part.rows for part in rewrite_parts(merged, remove=True)] == [3, 3, 6, 6]
    assert problems(out) == []


def test_a_split_of_one_divides_all_and_two_splits_are_refused(two: list[Dataset], out: Store) -> None:
    split_dataset(two[0], validation=0.25, seed=3)
    merge_datasets(out, two)
    both = [len(TokenDataset(out.root, split=split)) for split in ("train", "validation")]
    assert sum(both) == 96 and min(both) > 0
    split_dataset(two[1], validation=0.5, seed=3)
    with pytest.raises(ConfigError, match="divided by different splits") as caught:
        merge_datasets(open_store(f"{out.root}2"), two)
    assert f"  {two[1].store.root}: validation 0.5, seed 3" in caught.value.problems


def test_a_damaged_part_is_not_merged(two: list[Dataset], out: Store) -> None:
    path = Path(two[0].store.root, next(iter(two[0].parts())))
    path.write_bytes(path.read_bytes().replace(b'"attempt_id": "a', b'"attempt_id": "b'))
    with pytest.raises(
        CommitConflict, match=r"a/data/s0-.*-p000\.parquet: found sha256 .*, expected .*, as it was committed"
    ):
        merge_datasets(out, two)
    assert not list(out.list("_commits")) or all("s0-" not in info.path for info in out.list("_commits"))


def test_another_object_in_the_way_is_a_conflict(two: list[Dataset], out: Store) -> None:
    out.put("data/s0-0000000000-p000.parquet", b"mine")
    with pytest.raises(CommitConflict, match=r"out/data/s0-0000000000-p000\.parquet: found sha256"):
        merge_datasets(out, two)
    assert out.read("data/s0-0000000000-p000.parquet") == b"mine"


def test_of_two_copies_of_a_shard_one_without_the_removed_rows_will_do(two: list[Dataset], out: Store) -> None:
    merge_datasets(out, two[:1])
    remove_videos(two[0], ["v1"])
    list(rewrite_parts(two[0], remove=True))
    (Path(out.root) / "_commits/s0-0000000000.json").unlink()  # as if it had died before
    shutil.rmtree(Path(out.root) / "_snapshots")
    merge_datasets(out, two)
    assert problems(out) == [] and verify_dataset(Dataset.open(out)).removed == 6
    assert [part.rows for part in rewrite_parts(Dataset.open(out), remove=True)] == [3, 3], "copied before"


def test_shards_that_are_not_committed_stay_out(two: list[Dataset], out: Store) -> None:
    extra = Shard(shard_id="later-00000000aa", path="later.tar", size_bytes=5, etag=None)
    grow_inputs(two[0].store, lambda standing: [] if extra in list(standing) else [extra])
    merge_datasets(out, two)
    assert [shard.shard_id for shard in read_inputs(out) or []] == [f"s{n}-{n:010x}" for n in range(4)]
    assert verify_dataset(Dataset.open(out)).uncommitted == 0


def test_rejects_of_real_datasets_come_along(tmp_path: Path) -> None:
    """Of one input, tokenized in two halves; so the source can be held against the whole."""
    pack_input(tmp_path / "x")
    config = config_of(tmp_path / "x")
    run_job(config)
    source = dataset_of(tmp_path / "x")
    merge_datasets(open_store(str(tmp_path / "y/out")), [source])
    merged = dataset_of(tmp_path / "y")
    verdict = verify_dataset(merged, deep=True, source=open_store(str(tmp_path / "x/in")))
    assert (verdict.problems, verdict.shards) == ([], 2)
    rejects = merged.rejects()
    assert rejects is not None and rejects.equals(source.rejects()) and rejects.num_rows == 2


def test_lists_of_videos_come_along_and_a_video_in_two_of_them_is_refused(tmp_path: Path) -> None:
    video = make_video(gradient_frames(20))
    made = []
    for name, keys in (("a", "uvw"), ("b", "wxy"), ("c", "xyz")):
        folder = tmp_path / name
        folder.mkdir()
        for key in keys:
            (folder / f"{key}.mp4").write_bytes(video)
        raw = job("x", folder / "out", clips={"fps": None, "size": 16}).model_dump()
        raw["input"] = {"videos": str(folder), "videos_per_shard": 2}
        config = type(job("x", "y")).model_validate(raw)
        assert not run_job(config).failures
        made.append(Dataset.open(open_store(config.output)))
    out = open_store(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"'w\.mp4' is listed in .*/a/out .* and in .*/b/out"):
        merge_datasets(out, made[:2])
    assert objects(out) == {}
    merge_datasets(out, [made[0], made[2]])
    verdict = verify_dataset(Dataset.open(out), deep=True)
    assert (verdict.problems, verdict.shards) == ([], 4)
    assert {info.path for info in out.list("inputs")} == {"inputs/00000.parquet"} | {
        shard.videos.path for dataset in (made[0], made[2]) for shard in dataset.inputs() if shard.videos
    }
