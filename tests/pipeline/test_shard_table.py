"""Shards in a table are the shards that went in, without standing in memory as objects."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pipeline.records import Shard, VideoRange
from pipeline.shard_table import ShardTable
from tests.support import ROOT

SHARDS = [
    Shard(shard_id=f"s-{number}", path=f"é/{number}.tar", size_bytes=number, etag=None if number % 2 else "e")
    for number in range(2500)
]
SHARDS[7] = dataclasses.replace(SHARDS[7], videos=VideoRange(path="inputs/v.parquet", first=3, count=4))
SHARDS[8] = dataclasses.replace(SHARDS[8], only=(("a", 0), ("é", 2)))
SHARDS[9] = dataclasses.replace(SHARDS[9], only=())


def test_what_goes_in_comes_out() -> None:
    table = ShardTable.of(iter(SHARDS))
    assert len(table) == 2500 and list(table) == SHARDS and table == SHARDS
    assert (table[0], table[8], table[-1]) == (SHARDS[0], SHARDS[8], SHARDS[-1])
    assert table[5:9] == SHARDS[5:9] and table[5:9][1:] == SHARDS[6:9]
    assert table.sizes().sum() == sum(range(2500))
    assert list(itertools.chain(*table.sorted_ids(700))) == sorted(shard.shard_id for shard in SHARDS)
    for outside in (2500, -2501):
        with pytest.raises(IndexError):
            table[outside]
    assert ShardTable.of([]) == [] and not ShardTable.of([])


def test_an_order_holds_for_everything() -> None:
    order = np.random.default_rng(0).permutation(2500)
    table = ShardTable.of(SHARDS).chosen(order)
    expected = [SHARDS[number] for number in order]
    assert table == expected != SHARDS and table[3] == expected[3]
    assert table.sizes().tolist() == order.tolist()
    gone = {shard.shard_id for shard in expected[:2490]}
    assert table.without(pa.array(sorted(gone))) == expected[2490:]
    assert "s-1" not in {shard.shard_id for shard in table.without(pa.chunked_array([[], ["s-1"]], pa.string()))}


def test_a_driver_of_ray_has_no_pytorch() -> None:
    """It would take half of the memory that a driver has."""
    program = "import sys, jobs.cli, pipeline.job, pipeline.executors.ray; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_files_are_numbered_through() -> None:
    table = ShardTable.joined([ShardTable.of(SHARDS[:3]), ShardTable.of([]), ShardTable.of(SHARDS[3:])])
    assert table == SHARDS and table.chosen(np.array([2400, 2, 3])) == [SHARDS[2400], SHARDS[2], SHARDS[3]]
    assert ShardTable.joined([]) == []


def test_the_same_files_are_equal_without_an_object_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run compares what it read twice; a million would take seconds and a gigabyte."""
    data = ShardTable.file_of(SHARDS)
    one, other, fewer = ShardTable.read(data), ShardTable.read(data), ShardTable.of(SHARDS[:-1])
    with monkeypatch.context() as patch:
        patch.setattr(ShardTable, "__iter__", lambda _: pytest.fail("objects are made"))
        assert one == other and one != fewer
    assert one == ShardTable.joined([ShardTable.of(SHARDS[:9]), ShardTable.of(SHARDS[9:])])
    assert one != ShardTable.of([*SHARDS[:-1], SHARDS[0]])
