"""The same job behind a store that drops, delays, throttles, cuts off and loses answers, or dies and comes back."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.job import Progress, run_job
from pipeline.storage import open_store, retries
from tests.integration.places import assert_whole, pack_small_shards, run_in_child
from tests.jobs_for_tests import job
from tests.servers.localbucket import LocalBucket
from tests.servers.proxy import FAULTS, MisbehavingProxy
from tests.support import require_module

SEEDS = 20
# Of them, those that are not slow: before moto, and before Ceph, which is the real thing and takes its time.
SHORT_SEEDS = {"moto": 3, "ceph": 2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def unbroken(shards: Path, s3_endpoint: str, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """On S3 too, since parts and commits name the etags of their input, which follow from the content."""
    config = in_bucket(shards, s3_endpoint, tmp_path_factory.mktemp("unbroken"))
    assert not run_job(config).failures
    return config


def in_bucket(shards: Path, endpoint: str, folder: Path, **changes: Any) -> Any:
    """The small job with its input and output on an S3 server."""
    client = s3_client(endpoint)
    for path in sorted(shards.iterdir()):
        client.upload_file(str(path), "corpus", f"{folder.name}/in/{path.name}")
    side = {"endpoint_url": endpoint, **changes}
    clips = {"fps": None, "size": 16}
    root = f"s3://corpus/{folder.name}"
    return job(f"{root}/in", f"{root}/out", clips=clips, storage={"input": side, "output": side})


def s3_client(endpoint: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint)


@pytest.mark.parametrize(
    ("server", "seed"),
    [
        pytest.param(server, seed, marks=[pytest.mark.slow] if seed >= SHORT_SEEDS[server] else [])
        for server in SHORT_SEEDS
        for seed in range(SEEDS)
    ],
)
def test_every_fault_at_5_percent(
    server: str, seed: int, shards: Path, unbroken: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    endpoint = request.getfixturevalue({"moto": "s3_endpoint", "ceph": "ceph_endpoint"}[server])
    config = in_bucket(shards, endpoint, tmp_path)
    with MisbehavingProxy(endpoint, rate=0.05, seed=seed) as proxy:
        side = config.storage.output.model_copy(update={"endpoint_url": proxy.endpoint})
        behind = config.model_copy(
            update={"storage": config.storage.model_copy(update={"input": side, "output": side})}
        )
        assert not run_job(behind).failures
    assert sum(proxy.faults.values()) >= 5, proxy.faults
    assert_whole(config, unbroken)


@pytest.mark.parametrize("fault", [*FAULTS, "cut-in-silence"])
def test_each_operation_under_each_fault(fault: str, s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    """A third of all requests fail in this one way, and every answer is right all the same."""
    data = bytes(range(256)) * 200

    class Only(MisbehavingProxy):
        def _fault(self) -> str | None:
            hit = self._dice.random() < 0.3
            self.faults[fault] += hit
            return fault if hit else None

    with Only(s3_endpoint, seed=2) as proxy:
        store = open_store(f"s3://{bucket}/{tmp_path.name}-{fault}", {"endpoint_url": proxy.endpoint})
        for number in range(4):
            store.put_if_absent(f"d/{number}", data + bytes([number]))
            assert store.put_if_absent(f"d/{number}", b"late") is False
        assert [info.path for info in store.list("d")] == [f"d/{number}" for number in range(4)]
        with store.open("d/2") as file:
            assert file.read() == data + bytes([2])
        if fault != "cut-in-silence":  # where the length is not known beforehand, nobody can tell
            assert [store.read(f"d/{number}") for number in range(4)] == [data + bytes([n]) for n in range(4)]
        store.delete("d/0")
        assert store.read_if_there("d/0") is None and store.info("d/1") is not None
    assert proxy.faults[fault] >= 3


def test_a_store_that_stays_away_is_given_up_in_time(s3_endpoint: str, bucket: str) -> None:
    with MisbehavingProxy(s3_endpoint, rate=1.0) as proxy:
        store = open_store(f"s3://{bucket}/away", {"endpoint_url": proxy.endpoint, "retry_seconds": 2})
        began, before = time.monotonic(), retries()
        with pytest.raises(StorageError, match="cannot write s3://corpus/away/x"):
            store.put_if_absent("x", b"1")
        assert 1 < time.monotonic() - began < 10
    assert proxy.requests["PUT"] >= 3
    again = retries() - before  # aiohttp sends some twice by itself
    assert again.keys() == {"write"} and 2 <= again["write"] < proxy.requests["PUT"]


def test_a_store_that_ignores_the_condition_is_refused(
    shards: Path, unbroken: Any, s3_endpoint: str, bucket: str, tmp_path: Path
) -> None:
    config = in_bucket(shards, s3_endpoint, tmp_path)
    with MisbehavingProxy(s3_endpoint, drop_headers=frozenset({"if-none-match"})) as proxy:
        side = {"endpoint_url": proxy.endpoint}
        changed = {"output": {**side, "allow_single_writer": False}, "input": side}
        raw = config.model_dump() | {"storage": changed}
        with pytest.raises(ConfigError, match=r"output: s3://.* lets a second write .*allow_single_writer: true"):
            run_job(type(config).model_validate(raw))
        assert not [info for info in open_store(config.output, side).list(recursive=True)], "nothing is left behind"
        changed["output"]["allow_single_writer"] = True
        alone = type(config).model_validate(raw)
        assert not run_job(alone).failures
        assert_whole(alone, unbroken)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalBucket]:
    require_module("localbucket")
    require_module("s3fs")
    server = LocalBucket(tmp_path)
    s3_client(server.endpoint).create_bucket(Bucket="corpus")
    yield server
    server.kill()


@pytest.mark.parametrize("moment", [1, 3, 6])
def test_a_store_that_is_killed_and_comes_back(
    server: LocalBucket, shards: Path, unbroken: Any, tmp_path: Path, moment: int
) -> None:
    """In the middle of a job, which goes on by itself."""
    config = in_bucket(shards, server.endpoint, tmp_path)
    calls = itertools.count()

    def restart(_: Progress) -> None:
        if next(calls) == moment:
            server.kill()
            server.start()

    assert not run_job(config, restart).failures
    assert_whole(config, unbroken)


def test_a_store_that_refuses_connections_is_waited_for(server: LocalBucket) -> None:
    """As one does that restarts; until then each kind of request is tried again."""
    store = open_store("s3://corpus/away", {"endpoint_url": server.endpoint, "retry_seconds": 30})
    store.put("d/x", b"1")
    requests: list[Callable[[], Any]] = [
        lambda: store.read("d/x"),
        lambda: store.put("d/x", b"1"),
        lambda: store.put_if_absent("d/y", b"1"),
        lambda: store.info("d/x"),
        lambda: list(store.list("d")),
    ]
    for request in requests:
        server.kill()
        back = threading.Timer(0.5, server.start)
        back.start()
        request()
        back.join()


def test_a_driver_that_dies_with_its_store(server: LocalBucket, shards: Path, unbroken: Any, tmp_path: Path) -> None:
    config = in_bucket(shards, server.endpoint, tmp_path)
    assert run_in_child(config, {"VIDTOK_CRASH_AT": "part-put@3"}) == -9
    server.kill()
    server.start()
    assert not run_job(config).failures
    assert_whole(config, unbroken)
