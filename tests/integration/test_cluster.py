"""A cluster whose nodes come and go, as an autoscaler lets them: three nodes with invented GPUs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gate import Gate, job_command, until
from tests.integration.places import assert_whole, new_place, pack_small_shards, small_job
from tests.servers.process import end, start
from tests.servers.raylets import RayCluster

NUM_SHARDS = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"), NUM_SHARDS)


@pytest.fixture
def cluster(gate: Gate) -> Iterator[RayCluster]:
    with RayCluster(gate.environment) as cluster:
        yield cluster


@dataclass(frozen=True)
class Running:
    """A job of three workers that want a GPU each, in a process of its own."""

    config: Any
    driver: Any
    log: Path

    def assert_done(self, unbroken: Any) -> None:
        assert self.driver.wait(timeout=120) == 0, self.log.read_text()
        assert_whole(self.config, unbroken)


@pytest.fixture
def start_job(cluster: RayCluster, gate: Gate, shards: Path, tmp_path: Path) -> Iterator[Callable[[], Running]]:
    drivers = []

    def start_it() -> Running:
        executor = {"kind": "ray", "address": cluster.address, "num_workers": 3, "gpus_per_worker": 1}
        config, log = small_job(shards, new_place(None, tmp_path), executor=executor), tmp_path / "driver.log"
        drivers.append(start(job_command(config, tmp_path), log, gate.environment))
        return Running(config, drivers[-1], log)

    yield start_it
    for driver in drivers:
        end(driver)


def test_a_node_that_joins_is_used_and_its_gpus_are_shared_out(
    cluster: RayCluster, gate: Gate, start_job: Callable[[], Running], unbroken: Any
) -> None:
    first = cluster.add_node(num_gpus=1)
    job = start_job()
    # It begins with one worker: there is one GPU.
    until(gate.waiting, "a worker at work")
    second = cluster.add_node(num_gpus=2)
    until(lambda: len(gate.waiting()) == 3, "three workers at work at once")
    pinned = [(note["node"], note["gpus"]) for note in gate.waiting()]
    assert pinned[0] == (first, "0") and sorted(pinned[1:]) == [(second, "0"), (second, "1")]
    gate.open()
    job.assert_done(unbroken)


def test_what_a_killed_node_had_is_done_on_others(
    cluster: RayCluster, gate: Gate, start_job: Callable[[], Running], unbroken: Any
) -> None:
    first, second = cluster.add_node(num_gpus=1), cluster.add_node(num_gpus=2)
    job = start_job()
    until(lambda: len(gate.waiting()) == 3, "three workers at work at once")
    lost = [note["shard"] for note in gate.notes(node=second, part=1)]
    cluster.kill_node(second)
    # An autoscaler puts another in its place, on which new workers find room.
    third = cluster.add_node(num_gpus=2)
    until(lambda: len(gate.notes(node=third, part=1)) == 2, "two workers at work on the new node")
    gate.open()
    job.assert_done(unbroken)
    assert len(lost) == 2
    for shard in lost:  # its first part stayed, and others went on from there
        assert {note["node"] for note in gate.notes(shard=shard, part=0)} == {second}
        assert {note["node"] for note in gate.notes(shard=shard, state="put") if note["part"]} <= {first, third}
    assert job.log.read_text().count("attempt 1 of 3 failed: its worker died") == 2


@pytest.mark.slow
def test_a_job_waits_while_there_is_no_node(
    cluster: RayCluster, gate: Gate, start_job: Callable[[], Running], unbroken: Any
) -> None:
    # All three workers have had a place: one that never had waits in any case.
    first = cluster.add_node(num_gpus=3)
    job = start_job()
    until(lambda: len(gate.waiting()) == 3, "three workers at work at once")
    cluster.kill_node(first)

    def says_that_it_waits() -> bool:
        assert job.driver.poll() is None, job.log.read_text()
        return "no worker is ready yet" in job.log.read_text()

    until(says_that_it_waits, "half a minute without any worker")
    second = cluster.add_node(num_gpus=1)
    gate.open()
    job.assert_done(unbroken)
    assert {note["node"] for note in gate.notes()} == {first, second}
