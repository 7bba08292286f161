"""A network that falls apart in the middle of a job: the node that is given up for dead still works, and writes.

What Ray 2.60 was seen to do. A link that is back before a node is given up goes unnoticed: 20 s do that. With its own
settings it gives a node up after about 65 s without an answer; the call under way fails with ActorUnavailableError, and
our driver asks for another worker. The actor on the node that was cut off works on until its raylet ends, which
it does when the link is back and it hears that it counts as dead. Nobody starts another: whoever runs the nodes does.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gate import Gate, job_command, until
from tests.integration.places import assert_whole, new_place, pack_small_shards, small_job
from tests.servers.network import Network, why_not
from tests.servers.raylets import QUICK_HEALTH_CHECKS
from tests.support import require, require_module

NUM_SHARDS = 5
STORE_PORT = 9000
RAY_PORT = 6379


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"), NUM_SHARDS)


class Site:
    """Two raylets with a GPU each on hosts of their own, and a store on a third, to which each has its own cable."""

    def __init__(self, network: Network, gate: Gate, shards: Path, folder: Path, ray_folder: Path) -> None:
        self.gate = gate
        self._network = network
        self._folder = folder
        self._ray_folder = ray_folder
        self._num_raylets = 0
        store = network.addresses["store"]
        (folder / "data/corpus").mkdir(parents=True)
        command = [sys.executable, "-m", "localbucket", "--host", store, "--port", STORE_PORT, folder / "data"]
        network.start("store", command, folder / "store.log", {})
        self._head = f"{network.addresses['head']}:{RAY_PORT}"
        executor = {"kind": "ray", "address": self._head, "num_workers": 2, "gpus_per_worker": 1}
        self.job = small_job(shards, new_place(f"http://{store}:{STORE_PORT}", folder), executor=executor)
        # That store keeps objects as files: the same dataset, as it is seen from here.
        local = self.job.output.replace("s3:/", f"{folder}/data")
        self.dataset = small_job(shards, new_place(None, folder), root=local)

    def start_raylet(self, host: str, variables: Mapping[str, str]) -> tuple[str, Any]:
        """Starts a raylet, as a container would; returns the id of its node, and its process."""
        self._num_raylets += 1
        node = f"{self._num_raylets:056x}"
        role = ["--address", self._head]
        if host == "head":
            role = ["--head", "--port", RAY_PORT, "--include-dashboard", "false"]
        own = ["--node-ip-address", self._network.addresses[host], "--num-cpus", 1, "--num-gpus", 1]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role, *own]
        variables = {**variables, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node}
        return node, self._start(host, command, self._folder / f"{host}.log", variables)

    def start_driver(self) -> Any:
        """Starts the job beside the head."""
        return self._start("head", job_command(self.job, self._folder), self._folder / "driver.log", {})

    def _start(self, host: str, command: Sequence[object], log: Path, variables: Mapping[str, str]) -> Any:
        # The hosts share their files, and each has its Ray folder all the same.
        own = {**self.gate.environment, "RAY_TMPDIR": str(self._ray_folder / host), **variables}
        return self._network.start(host, command, log, own)

    def cut(self) -> None:
        self._network.cut("head", "worker")

    def mend(self) -> None:
        self._network.mend("head", "worker")

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def is_committed(self, shard: str) -> bool:
        commits = Path(self.dataset.output) / "_commits"
        return any(json.loads(path.read_text())["source"]["path"] == shard for path in commits.glob("*.json"))


@pytest.fixture
def site(shards: Path, tmp_path: Path) -> Iterator[Site]:
    require_module("localbucket")
    reason = why_not()
    require("netns", reason is None, str(reason))
    # A short path, since sockets are below it.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        Network(["head", "worker", "store"]) as network,
    ):
        yield Site(network, Gate(tmp_path / "gate"), shards, tmp_path, Path(folder))


@dataclass
class Broken:
    """A job in whose middle the link between head and worker is cut, when each side has a shard under way."""

    head: str
    worker: str
    raylet: Any
    driver: Any
    shard: str  # the one that the worker has


def cut_in_the_middle(site: Site, variables: Mapping[str, str]) -> Broken:
    head, _ = site.start_raylet("head", variables)
    until(lambda: "Ray runtime started" in site.log("head"), "the head")
    worker, raylet = site.start_raylet("worker", variables)
    driver = site.start_driver()
    until(lambda: len(site.gate.waiting()) == 2, "both workers at work")
    (shard,) = (note["shard"] for note in site.gate.waiting() if note["node"] == worker)
    site.cut()
    return Broken(head, worker, raylet, driver, shard)


def mend_and_end(site: Site, broken: Broken, variables: Mapping[str, str], unbroken: Any) -> None:
    site.mend()

    def has_gone_on() -> bool:
        return len({note["shard"] for note in site.gate.notes(node=broken.worker)}) > 1

    until(lambda: broken.raylet.poll() is not None or has_gone_on(), "the raylet ends, or its worker goes on")
    if broken.raylet.poll() is not None:
        node, _ = site.start_raylet("worker", variables)  # as whoever runs containers does
        if len({note["shard"] for note in site.gate.notes()}) < NUM_SHARDS:  # there is work left for it
            until(lambda: site.gate.notes(node=node), "a worker on the new raylet", seconds=60)
    site.gate.open()
    assert broken.driver.wait(timeout=200) == 0, site.log("driver")
    assert_whole(site.dataset, unbroken)


def test_both_sides_of_a_cut_write_one_shard(site: Site, unbroken: Any) -> None:
    """Part by part in turns, each of which the other side has built too."""
    gate = site.gate
    broken = cut_in_the_middle(site, QUICK_HEALTH_CHECKS)
    until(lambda: "attempt 1 of 3 failed: its worker died" in site.log("driver"), "the worker is given up")
    # The head's worker does all else, then goes on with the lost shard, and is slow at its last part.
    for shard in sorted({f"{number}.tar" for number in range(NUM_SHARDS)} - {broken.shard}):
        gate.open(node=broken.head, shard=shard)
    gate.open(node=broken.head, shard=broken.shard, part="1")
    until(lambda: gate.notes(node=broken.head, shard=broken.shard, part=2), "the head at the lost shard's end")
    gate.open(node=broken.worker)
    until(lambda: site.is_committed(broken.shard), "the worker commits, cut off as it is")
    steps = [(note["part"], note["state"]) for note in gate.notes(node=broken.worker, shard=broken.shard)]
    assert steps[2:] == [(1, "built"), (1, "adopted"), (2, "built"), (2, "put")]
    mend_and_end(site, broken, QUICK_HEALTH_CHECKS, unbroken)
    assert gate.notes(node=broken.head, shard=broken.shard, part=2)[-1]["state"] == "adopted"


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "variables"), [(60, QUICK_HEALTH_CHECKS), (60, {}), (20, {})])
def test_a_link_is_cut_for_a_while(site: Site, unbroken: Any, seconds: float, variables: Mapping[str, str]) -> None:
    """While the worker that is cut off ends its shard, and nobody hears of it."""
    broken = cut_in_the_middle(site, variables)
    ends = time.monotonic() + seconds
    site.gate.open(node=broken.worker)
    until(lambda: site.is_committed(broken.shard), "the worker commits, cut off as it is")
    until(lambda: time.monotonic() > ends, "the cut's end")
    mend_and_end(site, broken, variables, unbroken)
