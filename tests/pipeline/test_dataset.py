"""One root holds one dataset: joined where it is the same, refused where it is not."""

import dataclasses
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints import Weights, locate_weights
from pipeline.config import JobConfig
from pipeline.dataset import Dataset, fingerprint, plan_difference
from pipeline.errors import CommitConflict, ConfigError, StorageError
from pipeline.inputs import grow_inputs, read_inputs
from pipeline.job import _largest_first, run_job
from pipeline.plan import describe
from pipeline.records import Shard
from pipeline.shard_table import ShardTable
from pipeline.snapshots import newest_snapshot
from pipeline.storage import Store, open_store
from tests.jobs_for_tests import dataset_rows, job, store_of
from tests.media import gradient_frames, make_video, pack_tar

SHARDS = [
    Shard(shard_id="a-1", path="a.tar", size_bytes=2**40, etag="e"),
    Shard(shard_id="b-2", path="é/b.tar", size_bytes=0, etag=None),
]


def freeze(shards: list[Shard]) -> Callable[[list[Shard]], list[Shard]]:
    """What a first run chooses."""
    return lambda standing: [] if standing else shards


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def description(**changes: Any) -> dict[str, Any]:
    config = job("/in", "/out", **changes)
    return describe(config, locate_weights(config.model))


def test_equal_jobs_join(store: Store) -> None:
    first = Dataset.create(store, description())
    # What only changes speed or place stays out of the fingerprint; dataset.json stays the first run's.
    other = description(
        executor={"kind": "ray", "batch_size": 9, "num_workers": 3, "cpus_per_worker": 4},
        rows={"part_bytes": 99},
        input={"shards": "/elsewhere"},
        storage={"output": {"region": "eu-west-1"}},
    )
    joined = Dataset.create(store, other)
    assert joined.description == first.description == Dataset.open(store).description
    assert joined.description["job"]["input"]["shards"] == "/in"
    assert [info.path for info in store.list(recursive=True)] == ["dataset.json"]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"clips": {"size": 128}}, ["clips.size: the dataset has 64, the job wants 128"]),
        ({"clips": {"fps": 8}}, ["clips.fps: the dataset has 4.0, the job wants 8.0"]),
        (
            {"clips": {"fps": None, "every": 2, "stride": 5}},
            [
                "clips.every: the dataset has None, the job wants 2",
                "clips.fps: the dataset has 4.0, the job wants None",
                "clips.stride: the dataset has None, the job wants 5",
            ],
        ),
        ({"clips": {"num_frames": 33}}, ["clips.num_frames: the dataset has 17, the job wants 33"]),
        ({"clips": {"tail": "drop"}}, ["clips.tail: the dataset has 'pad', the job wants 'drop'"]),
        ({"model": {"dtype": "bf16"}}, ["dtype: the dataset has 'fp32', the job wants 'bf16'"]),
        ({"model": {"seed": 7}}, ["model.weights: the dataset has 'seed 0', the job wants 'seed 7'"]),
        (
            {"model": {"overrides": {"base_channels": 32}}},
            ["model.config.base_channels: the dataset has 16, the job wants 32"],
        ),
    ],
)
def test_what_changes_a_row_is_another_dataset(store: Store, changes: dict[str, Any], lines: list[str]) -> None:
    Dataset.create(store, description())
    standing = store.read("dataset.json")
    wanted = description(**changes)
    with pytest.raises(ConfigError) as caught:
        Dataset.create(store, wanted)
    assert [line.strip() for line in caught.value.problems[1:]] == lines
    assert store.root in caught.value.problems[0] and wanted["fingerprint"][:12] in caught.value.problems[0]
    assert store.read("dataset.json") == standing


def test_the_clip_length_counts_however_it_is_written() -> None:
    assert description()["fingerprint"] == description(clips={"num_frames": 17})["fingerprint"]


def test_a_fingerprint_never_changes() -> None:
    """By hand: printf '{"a":{"b":1.5,"c":null},"d":"\\u00e9"}' | sha256sum, whatever the order of the keys."""
    expected = "20567dacc714354966dc7b2613cd9ce43bf85725ea5b3a6252f08639dd020eb5"
    plan = {"d": "é", "a": {"c": None, "b": 1.5}}
    assert fingerprint(plan) == expected


def test_differences_of_plans() -> None:
    standing = {"same": 1, "gone": 2, "deep": {"x": {"y": 1}}, "kind": {"a": 1}}
    wanted = {"same": 1, "new": [3], "deep": {"x": {"y": 2}}, "kind": "a"}
    assert plan_difference(standing, wanted) == [
        "deep.x.y: the dataset has 1, the job wants 2",
        "gone: the dataset has 2, the job wants None",
        "kind: the dataset has {'a': 1}, the job wants 'a'",
        "new: the dataset has None, the job wants [3]",
    ]


def test_no_secret_is_stored() -> None:
    raw = job("/in", "/out").model_dump()
    raw["input"]["shards"] = ["https://user:hunter2@host/in/0.tar", "https://host/in/1.tar?X-Amz-Signature=hunter2"]
    raw["model"] |= {"checkpoint": "https://host/w.ckpt?X-Amz-Signature=hunter2", "overrides": {}}
    stored = describe(JobConfig.model_validate(raw), Weights(checkpoint="https://host/w.ckpt", identity="0"))
    assert "hunter2" not in str(stored)
    assert stored["job"]["input"]["shards"] == ["https://host/in/0.tar", "https://host/in/1.tar"]


def test_opening_nothing(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"/out: there is no dataset \(no dataset\.json\)"):
        Dataset.open(store)
    assert read_inputs(store) is None


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[]", b"3", b"null", b'"text"', b"{}", b'{"fingerprint": "x"}'])
def test_opening_garbage(store: Store, data: bytes) -> None:
    store.put_if_absent("dataset.json", data)
    for act in (lambda: Dataset.open(store), lambda: Dataset.create(store, description())):
        with pytest.raises(ConfigError, match=r"/out/dataset\.json: is not a dataset description of ours"):
            act()


def test_inputs_are_frozen_by_the_first(store: Store) -> None:
    assert grow_inputs(store, freeze(SHARDS)) == SHARDS
    assert grow_inputs(store, freeze(SHARDS[:1])) == SHARDS == read_inputs(store)


def test_an_empty_list_is_frozen_too(store: Store) -> None:
    assert grow_inputs(store, freeze([])) == [] == read_inputs(store)


def test_what_many_add_at_once_is_there_once(store: Store) -> None:
    """Each adds its own shard and the one that all have in common; the files number themselves."""
    grow_inputs(store, freeze(SHARDS))
    own = [Shard(shard_id=f"own-{number}", path=f"{number}.tar", size_bytes=1, etag=None) for number in range(8)]
    common = dataclasses.replace(SHARDS[0], shard_id="a-1~retry1", only=(("k", 0), ("é", 3)))

    def add(shard: Shard) -> None:
        grow_inputs(store, lambda standing: [new for new in (common, shard) if new not in standing])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, own))
    shards = read_inputs(store)
    assert shards is not None and shards[:2] == SHARDS
    assert sorted(shards[2:], key=lambda shard: shard.shard_id) == [common, *own]


def test_inputs_frozen_by_many_at_once_are_those_of_one(store: Store) -> None:
    lists = [[Shard(shard_id=f"{number}", path=f"{number}.tar", size_bytes=1, etag=None)] for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda shards: grow_inputs(store, freeze(shards)), lists))
    assert found[0] in lists and found == [found[0]] * 16


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_garbage_for_inputs(store: Store, data: bytes) -> None:
    store.put_if_absent("inputs/00000.parquet", data)
    with pytest.raises(ConfigError, match=r"inputs/00000\.parquet: is not a list of shards of ours"):
        read_inputs(store)


def test_a_file_that_comes_later_does_not_join(tmp_path: Path) -> None:
    """The input is frozen: it neither regroups what is done nor is silently half included."""
    video = make_video(gradient_frames(4))
    pack_tar(tmp_path / "in/1.tar", [("b.mp4", video)])
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 8})
    run_job(config)
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", video)])
    again = run_job(config)
    assert (again.progress.shards_done, again.progress.shards) == (0, 1)
    run_job(config, append=True)
    assert [shard.path for shard in Dataset.open(store_of(config)).inputs()] == ["1.tar", "0.tar"]
    assert dataset_rows(config)["source_key"].to_pylist() == ["a", "b"], "and now it has"
    assert run_job(config, append=True).progress.shards_done == 0


def test_rows_are_found_by_id_among_committed_parts_only(tmp_path: Path) -> None:
    video = make_video(gradient_frames(40))
    for number in range(2):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", video), ("bad.mp4", b"\0")])
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 8})
    run_job(config)
    rows = dataset_rows(config).to_pylist()
    assert len(rows) == 6
    dataset = Dataset.open(store_of(config))
    assert [dataset.find_row(row["id"]) for row in rows] == rows
    assert [commit["shard_id"] for commit in dataset.commits()] == sorted(shard.shard_id for shard in dataset.inputs())
    with pytest.raises(ConfigError, match="no committed row has the id 'nope'"):
        dataset.find_row("nope")
    # A part that no commit names is not there, for a reader.
    next(iter(sorted(Path(config.output, "_commits").iterdir()))).unlink()
    shutil.rmtree(Path(config.output, "_snapshots"))
    with pytest.raises(ConfigError, match="no committed row"):
        dataset.find_row(rows[0]["id"])
    assert dataset.find_row(rows[-1]["id"]) == rows[-1]
    assert dataset.rejects().num_rows == 1


def test_frozen_inputs_that_vanish_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "put_if_absent", lambda *_: True)
    with pytest.raises(CommitConflict, match=r"/inputs: what is written there is not there"):
        grow_inputs(store, freeze(SHARDS))


def test_a_snapshot_that_cannot_be_written_fails_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is derived; the next run makes up for it."""
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", make_video(gradient_frames(20)))])
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 16})
    real = Store.put_if_absent

    def put(store: Store, path: str, data: bytes) -> bool:
        if path.startswith("_snapshots/"):
            raise StorageError("the store has no room")
        return real(store, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_if_absent", put)
        result = run_job(config)
    assert result.progress.shards_done == 1 and not result.failures
    assert "no snapshot was written: the store has no room" in caplog.text
    assert newest_snapshot(store_of(config)).number == 0
    run_job(config)
    assert len(newest_snapshot(store_of(config)).ids) == 1


def test_other_patterns_need_the_same_folder(tmp_path: Path) -> None:
    """Shards are named by their path below it, so a worker would look for them elsewhere."""
    pack_tar(tmp_path / "in/deep/0.tar", [("a.mp4", make_video(gradient_frames(20)))])
    clips = {"fps": None, "size": 16}
    run_job(job(tmp_path / "in", tmp_path / "out", clips=clips))
    with pytest.raises(ConfigError, match=r"input\.shards: other patterns .*/in for their common folder"):
        run_job(job(tmp_path / "in/deep/*.tar", tmp_path / "out", clips=clips))
    (tmp_path / "in").rename(tmp_path / "moved")
    pack_tar(tmp_path / "moved/1.tar", [("a.mp4", make_video(gradient_frames(20)))])
    result = run_job(job(tmp_path / "moved", tmp_path / "out", clips=clips), append=True)
    assert result.progress.shards_done == 1, "an input that has moved is the same"


def test_large_shards_come_first_and_each_run_has_its_own_order() -> None:
    shards = [Shard(shard_id=f"s{n}", path=f"{n}.tar", size_bytes=2 ** (n % 4 + 20), etag=None) for n in range(40)]
    table = ShardTable.of(shards)
    orders = [_largest_first(table, run) for run in ("a", "b")]
    for order in orders:
        assert sorted(shard.shard_id for shard in order) == sorted(shard.shard_id for shard in shards)
        sizes = [shard.size_bytes for shard in order]
        assert sizes == sorted(sizes, reverse=True)
    assert orders[0] != orders[1] and orders[0] == _largest_first(table, "a")
