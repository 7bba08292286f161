"""TokenDataset: one stream, however it is read and wherever it is broken off; errors name what is wrong."""

import itertools
import logging
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline import TokenDataset
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.reading.loader import TokenLoader
from pipeline.reading.parts import CorruptPart
from pipeline.storage import Store, open_store
from tests.rows_for_tests import GRID, made_rows, token_of

# Three workers on a machine of two cores are what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # called by torchdata
]

ROWS = 3 * 2 * 4 * 3  # of made_rows
SHAPES = [(2, 3, 4), (1, 2, 2), (3, 3, 3)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 72 rows in 6 row groups."""
    folder = tmp_path_factory.mktemp("tokens")
    made_rows(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of three shapes, in each row group."""
    folder = tmp_path_factory.mktemp("latents")
    made_rows(folder, model="vidtok_kl_causal_488_4chn", grids=SHAPES, logvar=True)
    return folder


def stored(root: Path) -> list[dict[str, Any]]:
    """All rows as Arrow reads them, in the order in which they were written."""
    dataset = Dataset.open(open_store(str(root)))
    return [row for path in dataset.parts() for row in pq.read_table(root / path).to_pylist()]


def ids(items: Any) -> list[Any]:
    """What tells items apart: a row's id, a batch's ids."""
    return [item["id"] if isinstance(item["id"], str) else tuple(item["id"]) for item in items]


def streams(root: Path, world_size: int, **options: Any) -> list[Any]:
    """The items of all ranks as they come at each step."""
    ranks = [ids(TokenDataset(root, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]
    assert len({len(items) for items in ranks}) == 1, "equally many on every rank"
    return [item for step in zip(*ranks, strict=True) for item in step]


def test_rows_are_what_was_stored(root: Path) -> None:
    columns = ["id", "source_key", "clip_index", "start_seconds", "frame_seconds", "caption", "flags", "width"]
    by_id = {row["id"]: row for row in stored(root)}
    found = list(TokenDataset(root, columns=columns))
    assert sorted(ids(found)) == sorted(by_id) and len(found) == ROWS
    for row in found:
        expected = by_id[row["id"]]
        assert row["tokens"].dtype == torch.int32 and row["tokens"].shape == GRID
        assert row["tokens"].flatten().tolist() == expected["tokens"]
        assert row["frame_seconds"].tolist() == pytest.approx(expected["frame_seconds"])
        assert {name: row[name] for name in set(columns) - {"frame_seconds"}} == {
            name: expected[name] for name in set(columns) - {"frame_seconds"}
        }


def test_without_shuffling_rows_come_as_they_were_written(root: Path) -> None:
    rows = list(TokenDataset(root, shuffle=False))
    assert ids(rows) == [row["id"] for row in stored(root)]
    assert [int(row["tokens"].flatten()[0]) for row in rows] == [token_of(number) for number in range(ROWS)]


def test_latents_and_log_variances_are_what_was_stored(mixed: Path) -> None:
    by_id = {row["id"]: row for row in stored(mixed)}
    rows = list(TokenDataset(mixed, columns=["id", "logvar"]))
    assert {tuple(row["latents"].shape) for row in rows} == {(4, *shape) for shape in SHAPES}
    for row, name in itertools.product(rows, ("latents", "logvar")):
        assert row[name].dtype == torch.float16 and row[name].is_contiguous()
        assert row[name].numpy().tobytes() == by_id[row["id"]][name]


def test_a_batch_is_its_rows_of_one_shape(mixed: Path) -> None:
    columns = ["id", "caption", "latent_t", "logvar"]
    rows = {row["id"]: row for row in TokenDataset(mixed, columns=columns)}
    batches = list(TokenDataset(mixed, columns=columns, batch_size=5, lanes=2))
    assert sorted(itertools.chain(*ids(batches))) == sorted(rows)
    assert [len(batch["id"]) for batch in batches] == [5] * 12 + [4] * 3
    for batch in batches:
        same = [rows[row_id] for row_id in batch["id"]]
        for name in ("latents", "logvar"):
            assert torch.equal(batch[name], torch.stack([row[name] for row in same]))
        assert batch["caption"] == [row["caption"] for row in same]
        assert batch["latent_t"].tolist() == [row["latent_t"] for row in same]


def test_rows_may_be_written_to_and_their_neighbours_stay(root: Path) -> None:
    dataset = TokenDataset(root)
    dataset[0]["tokens"].zero_()
    TokenDataset(root, batch_size=4)[0]["tokens"].zero_()
    assert dataset[0]["tokens"].any()
    for batch_size in (None, 4):
        dataset = TokenDataset(root, columns=["flags", "frame_seconds"], batch_size=batch_size)
        flags, seconds = dataset[0]["flags"], dataset[0]["frame_seconds"]
        (flags if batch_size is None else flags[0]).append("mine")
        (seconds if batch_size is None else seconds[0]).fill_(-1)
        again = dataset[0]
        assert "mine" not in str(again["flags"]) and "-1" not in str(again["frame_seconds"])


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"batch_size": 7, "lanes": 3}], ids=str)
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_one_order(root: Path, world_size: int, options: dict[str, Any]) -> None:
    one = streams(root, 1, **options)
    many = streams(root, world_size, **options)
    assert many[: len(one)] == one
    assert many[len(one) :] == one[: -len(one) % world_size], "the last ones are the first ones again"
    dropped = streams(root, world_size, drop_last=True, **options)
    whole = streams(root, 1, drop_last=True, **options)
    assert dropped == whole[: len(whole) - len(whole) % world_size]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_workers_change_nothing(root: Path, num_workers: int) -> None:
    dataset = TokenDataset(root, batch_size=5, seed=4)
    assert ids(DataLoader(dataset, batch_size=None, num_workers=num_workers)) == ids(dataset)
    assert ids(TokenLoader(dataset, num_workers=num_workers)) == ids(dataset)
    by_number = DataLoader(dataset.map_style(), batch_size=None, num_workers=num_workers)
    assert ids(by_number) == ids(dataset)
    assert len(dataset) == len(ids(dataset)) == len(by_number)


def test_rows_that_the_loader_joins(root: Path) -> None:
    loader = DataLoader(TokenDataset(root, columns=["id", "width"]), batch_size=8, num_workers=2)
    batches = list(loader)
    assert batches[0]["tokens"].shape == (8, *GRID) and batches[0]["width"].tolist() == [16] * 8
    assert Counter(itertools.chain(*ids(batches))) == Counter(row["id"] for row in stored(root))
    sampled = TokenDataset(root).map_style()
    sampler = DistributedSampler(sampled, num_replicas=2, rank=1, shuffle=True, seed=1)
    assert len(list(DataLoader(sampled, batch_size=6, sampler=sampler))) == ROWS // 2 // 6


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), batch_size=st.sampled_from([None, 4, 7]), lanes=st.integers(1, 9), seed=st.integers(-9, 9))
def test_a_stream_goes_on_with_other_ranks(
    root: Path, data: st.DataObject, batch_size: int | None, lanes: int, seed: int
) -> None:
    """Any stops, and other numbers of ranks after each: together they are the unbroken stream."""
    options = {"batch_size": batch_size, "lanes": lanes, "seed": seed}
    whole = streams(root, 1, **options)
    found: list[Any] = []
    state = None
    for world_size in data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)):
        ranks = [TokenDataset(root, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(pickle.loads(pickle.dumps(state)))
        steps = data.draw(st.integers(0, max(0, len(whole) - len(found)) // world_size))
        taken = [ids(itertools.islice(rank, steps)) for rank in ranks]
        found += [item for step in zip(*taken, strict=True) for item in step]
        states = [rank.state_dict() for rank in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert found == whole[: len(found)]
    last = TokenDataset(root, **options)
    last.load_state_dict(state)
    assert found + ids(last) == whole


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("options", [{"batch_size": 6}, {}], ids=str)
def test_torchdata_goes_on_after_every_batch(root: Path, num_workers: int, options: dict[str, Any]) -> None:
    def loader() -> StatefulDataLoader[Any]:
        joined = None if options else 6
        return StatefulDataLoader(TokenDataset(root, seed=2, **options), batch_size=joined, num_workers=num_workers)

    whole = ids(loader())
    assert Counter(itertools.chain(*whole)) == Counter(row["id"] for row in stored(root))
    for stop in range(len(whole) + 1):
        first = loader()
        found = ids(itertools.islice(first, stop))
        second = loader()
        second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        assert found + ids(second) == whole, stop


def test_a_loader_goes_on_with_other_workers_and_ranks(root: Path) -> None:
    """1 rank, then 4, then 2, with 0, 3 and 1 workers; a stop in the middle of each."""
    options = {"batch_size": 3, "seed": 6}
    whole = streams(root, 1, **options)
    found: list[Any] = []
    state = None
    for world_size, num_workers, steps in ((1, 0, 5), (4, 3, 2), (2, 1, 3), (1, 3, 100)):
        loaders = [
            TokenLoader(TokenDataset(root, rank=rank, world_size=world_size, **options), num_workers=num_workers)
            for rank in range(world_size)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        taken = [ids(itertools.islice(loader, steps)) for loader in loaders]
        found += [item for step in zip(*taken, strict=True) for item in step]
        state = loaders[0].state_dict()
        assert all(loader.state_dict() == state for loader in loaders)
    assert found == whole


@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_epochs(root: Path, num_workers: int, persistent: bool) -> None:
    loader = TokenLoader(TokenDataset(root, batch_size=8), num_workers=num_workers, persistent_workers=persistent)
    epochs = [ids(TokenDataset(root, batch_size=8, epoch=epoch)) for epoch in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    loader.load_state_dict(loader.state_dict() | {"epoch": 1, "consumed": 4})
    found = []
    for epoch in range(loader.epoch, 3):
        loader.set_epoch(epoch)
        found.append(ids(loader))
    assert found == [epochs[1][4:], epochs[2]]
    assert ids(loader) == epochs[2], "again from its beginning"


def test_workers_that_live_on_go_where_a_state_says(root: Path) -> None:
    """They were told where to begin when they were made: for another place there are new ones."""
    whole = [ids(TokenDataset(root, batch_size=4, epoch=epoch)) for epoch in range(2)]
    loader = TokenLoader(TokenDataset(root, batch_size=4), num_workers=2, persistent_workers=True)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict() | {"consumed": 5})
    assert ids(itertools.islice(loader, 3)) == whole[0][5:8]
    assert loader.state_dict()["consumed"] == 8
    loader.set_epoch(1)
    assert ids(loader) == whole[1]


def test_a_state_says_whose_it_is(root: Path, mixed: Path) -> None:
    state = TokenDataset(root, batch_size=4).state_dict()
    with pytest.raises(ConfigError, match=r"is of batch_size 4 \(here 5\), lanes 8 \(here 2\): another order"):
        TokenDataset(root, batch_size=5, lanes=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="the state is of another dataset"):
        TokenDataset(mixed, batch_size=4).load_state_dict(state)
    with pytest.raises(ConfigError, match="has no consumed"):
        TokenDataset(root).load_state_dict({name: state[name] for name in state if name != "consumed"})
    with pytest.raises(ConfigError, match=r"of one of 3 workers does not go on with 1"):
        TokenDataset(root, batch_size=4).load_state_dict(state | {"workers": 3, "items": 2})


def test_a_snapshot_stays_what_it_was(tmp_path: Path) -> None:
    """What is committed later is in later snapshots, and a state brings its own along."""
    made_rows(tmp_path, shards=2)
    first = TokenDataset(tmp_path)
    before = ids(first)
    made_rows(tmp_path, shards=1, first_shard=2)
    second = TokenDataset(tmp_path)
    assert (first.snapshot, second.snapshot, len(second)) == (1, 2, ROWS)
    assert ids(TokenDataset(tmp_path, snapshot=1)) == before
    second.load_state_dict(first.state_dict() | {"consumed": 10})
    assert ids(second) == before[10:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"snapshot": 7}, "has no snapshot 7"),
        ({"columns": ["id", "captions"]}, "columns: there is no 'captions'; there are id, source_shard"),
        ({"columns": ["logvar"]}, "there is no 'logvar'"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2: expected 0 <= rank < world_size"),
        ({"batch_size": 0}, "batch_size 0: expected 1 or more"),
        ({"lanes": 0}, "lanes 0: expected 1 or more"),
        ({"on_corrupt": "ignore"}, "on_corrupt 'ignore': expected raise or skip"),
        ({"split": "test"}, "split 'test': expected train, validation or None"),
        ({"split": "train"}, "6 row groups of snapshot 1 are on neither side, such as data/s0-"),
        ({"cache_dir": "/proc/nowhere"}, "cache_dir /proc/nowhere: cannot be written to"),
    ],
)
def test_what_makes_no_sense_is_named(root: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TokenDataset(root, **options)


def test_no_dataset_and_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dataset"):
        TokenDataset(tmp_path)
    made_rows(tmp_path / "a", shards=1)
    shutil.rmtree(tmp_path / "a/_snapshots")
    with pytest.raises(ConfigError, match="has no snapshot; a run of `vidtok tokenize` writes one"):
        TokenDataset(tmp_path / "a")


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:4] + bytes(len(data) // 3) + data[4 + len(data) // 3 :])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("how", ["missing", "cut", "overwritten"])
def test_a_corrupt_part(tmp_path: Path, how: str, num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    made_rows(tmp_path)
    dataset = Dataset.open(open_store(str(tmp_path)))
    damaged = list(dataset.parts())[2]
    lost = {row["id"] for row in pq.read_table(tmp_path / damaged).to_pylist()}
    damage(tmp_path / damaged, how)
    with pytest.raises(CorruptPart, match=rf"{damaged}, row group 0: cannot be read"):
        list(TokenLoader(TokenDataset(tmp_path, batch_size=4), num_workers=num_workers))
    skipping = TokenDataset(tmp_path, batch_size=4, on_corrupt="skip")
    caplog.set_level(logging.WARNING)
    batches = list(TokenLoader(skipping, num_workers=num_workers))
    found = Counter(itertools.chain(*ids(batches)))
    assert len(batches) == ROWS // 4 and {len(batch["id"]) for batch in batches} == {4}, "as many as without damage"
    assert found.keys() == {row_id for row_id in ids(TokenDataset(tmp_path, on_corrupt="skip"))}
    assert not found.keys() & lost and len(found) == ROWS - len(lost)
    assert skipping.skipped_rows == len(lost)
    assert num_workers or caplog.text.count(f"{damaged}, row group 0") == 2, "once by each of two readers"


def test_a_corrupt_part_of_several_shapes(tmp_path: Path) -> None:
    """Which of its rows have which shape nobody knows: they are left out of the order."""
    made_rows(tmp_path, grids=SHAPES)
    damaged = list(Dataset.open(open_store(str(tmp_path))).parts())[2]
    lost = {row["id"] for row in pq.read_table(tmp_path / damaged).to_pylist()}
    (tmp_path / damaged).unlink()
    with pytest.raises(CorruptPart, match=rf"{damaged}, row group 0: cannot be read"):
        TokenDataset(tmp_path)
    for options in ({}, {"batch_size": 4}):
        found = ids(TokenDataset(tmp_path, on_corrupt="skip", **options))
        found = found if not options else list(itertools.chain(*found))
        assert len(set(found)) == len(found) == ROWS - len(lost) and not lost & set(found)


def test_a_flipped_bit(tmp_path: Path) -> None:
    """In a page of tokens, where any bits would make tokens: the page's checksum tells."""
    made_rows(tmp_path, shards=1, parts=1)
    (part,) = (tmp_path / "data").iterdir()
    group = pq.read_metadata(part).row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    tokens = next(chunk for chunk in chunks if chunk.path_in_schema.startswith("tokens"))
    data = bytearray(part.read_bytes())
    data[tokens.data_page_offset + tokens.total_compressed_size - 3] ^= 4
    part.write_bytes(data)
    with pytest.raises(CorruptPart, match=r"-p000\.parquet, row group 0: cannot be read: .*CRC"):
        list(TokenDataset(tmp_path))


def test_a_shape_of_which_nothing_is_left(tmp_path: Path) -> None:
    """Batches of another one stand in, so that ranks still have equally many."""
    made_rows(tmp_path, shards=1, parts=1, grids=[(1, 2, 2)])
    made_rows(tmp_path, shards=2, parts=1, first_shard=1)
    gone = next(iter(Dataset.open(open_store(str(tmp_path))).parts()))
    (tmp_path / gone).unlink()
    dataset = TokenDataset(tmp_path, batch_size=4, on_corrupt="skip")
    batches = list(dataset)
    assert len(batches) == 9 and {tuple(batch["tokens"].shape) for batch in batches} == {(4, *GRID)}
    assert dataset.skipped_rows == 12


def test_nothing_can_be_read(tmp_path: Path) -> None:
    made_rows(tmp_path, shards=1)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(CorruptPart, match="no row group can be read"):
        next(iter(TokenDataset(tmp_path, on_corrupt="skip")))


class Counted:
    """Counts what a store is asked for below data/."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[str, int, int]] = []
        read_range = Store.read_range

        def counting(store: Store, path: str, start: int, end: int) -> bytes:
            self.ranges.append((path, start, end))
            return read_range(store, path, start, end)

        monkeypatch.setattr(Store, "read_range", counting)


def test_a_cold_loader_goes_on_after_one_row_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in mid-epoch, it reads the row group of its next batch, and nothing of what was given before."""
    whole = ids(TokenDataset(root, batch_size=3, seed=1))
    killed = TokenDataset(root, batch_size=3, seed=1)
    list(itertools.islice(killed, 10))
    resumed = TokenDataset(root, batch_size=3, seed=1, read_ahead=0)
    resumed.load_state_dict(killed.state_dict())
    counted = Counted(monkeypatch)
    batch = next(iter(resumed))
    assert ids([batch]) == [whole[10]]
    assert len({path for path, _, _ in counted.ranges}) == 1
    assert len(counted.ranges) == 2, "a footer, and the columns of one row group"


def test_only_the_columns_that_are_wanted_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_rows(tmp_path, shards=1, parts=1, videos=40, clips=5, grids=[(5, 16, 16)])
    (part,) = (tmp_path / "data").iterdir()
    group = pq.read_metadata(part).row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    tokens = next(chunk for chunk in chunks if chunk.path_in_schema.startswith("tokens"))
    monkeypatch.setattr("pipeline.reading.parts._GAP_BYTES", 0)
    counted = Counted(monkeypatch)
    list(TokenDataset(tmp_path, columns=[]))
    read = sum(end - start for _, start, end in counted.ranges[1:])
    assert tokens.total_compressed_size <= read < tokens.total_compressed_size + 2000


def test_a_million_rows_take_no_time_to_open(tmp_path: Path) -> None:
    """The index is arrays: what a rank knows of a row group is some dozen bytes, and of a row nothing."""
    made_rows(tmp_path, shards=1)
    dataset = TokenDataset(tmp_path)
    assert len(pickle.dumps(dataset)) < 20_000
