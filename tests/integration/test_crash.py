"""Whatever dies, wherever: the next run ends with the dataset of an unbroken one."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.crash_points import CRASH_POINTS
from pipeline.job import run_job
from tests.integration.places import (
    OutputPlace,
    assert_whole,
    new_place,
    pack_small_shards,
    run_in_child,
    small_job,
    start_child,
)
from tests.jobs_for_tests import store_of
from tests.support import ROOT

LOCAL_POINTS = [point for point in CRASH_POINTS if point.startswith("local-")]
POINTS = [point for point in CRASH_POINTS if point not in LOCAL_POINTS]
POINTS += ["part-built@3", "part-put@2", "part-put@4", "commit-put@2"]
PLACES = ["local", "moto", "ceph"]
# Servers take their time: these there, all of them in test-all.
SHORT_ON_SERVERS = ["part-put@2", "rejects-put", "commit-put"]
# Each of a run's writes in turn; the whole range in test-all.
LOCAL_WRITES = 18


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OutputPlace:
    if request.param == "moto":
        request.getfixturevalue("bucket")
    fixture = {"local": None, "moto": "s3_endpoint", "ceph": "ceph_endpoint"}[request.param]
    endpoint = request.getfixturevalue(fixture) if fixture else None
    return new_place(endpoint, tmp_path_factory.mktemp("crash"))


def die_and_go_on(point: str, shards: Path, place: OutputPlace, unbroken: Any) -> None:
    config = small_job(shards, place)
    assert run_in_child(config, {"VIDTOK_CRASH_AT": point}) == -signal.SIGKILL
    assert not run_job(config).failures
    assert_whole(config, unbroken)


@pytest.mark.parametrize(
    ("place", "point"),
    [
        pytest.param(
            place, point, marks=[pytest.mark.slow] if place != "local" and point not in SHORT_ON_SERVERS else []
        )
        for place in PLACES
        for point in POINTS
    ],
    indirect=["place"],
)
def test_a_run_that_died_is_gone_on_with(shards: Path, place: OutputPlace, unbroken: Any, point: str) -> None:
    die_and_go_on(point, shards, place, unbroken)


@pytest.mark.parametrize("point", LOCAL_POINTS)
@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=[] if n % 6 == 3 else [pytest.mark.slow]) for n in range(1, LOCAL_WRITES + 1)],
)
def test_a_run_that_died_in_a_local_write(shards: Path, tmp_path: Path, unbroken: Any, point: str, number: int) -> None:
    die_and_go_on(f"{point}@{number}", shards, new_place(None, tmp_path), unbroken)


def test_no_local_write_is_left_out(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    monkeypatch.setattr("pipeline.storage.writes.crash_point", passed.append)
    assert not run_job(small_job(shards, new_place(None, tmp_path))).failures
    assert passed.count("local-file-written") == LOCAL_WRITES


def test_the_table_names_every_crash_point() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(CRASH_POINTS)


def test_the_tests_that_guard_a_rule_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(named) >= 10
    assert [(path, name) for path, name in named if f"\ndef {name}(" not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize("drivers", [2, 4])
def test_drivers_at_once_make_one_dataset(shards: Path, place: OutputPlace, unbroken: Any, drivers: int) -> None:
    config = small_job(shards, place)
    children = [start_child(config, {}) for _ in range(drivers)]
    for child in children:
        child.join(timeout=300)
    assert [child.exitcode for child in children] == [0] * drivers
    assert_whole(config, unbroken)


@pytest.fixture
def zombie(shards: Path, place: OutputPlace) -> Iterator[tuple[Any, Any]]:
    """A job whose driver is stopped, not dead, in the middle of a shard."""
    config = small_job(shards, place)
    child = start_child(config, {"VIDTOK_CRASH_AT": "part-put@2", "VIDTOK_CRASH_SIGNAL": "SIGSTOP"})
    yield config, child
    child.kill()
    child.join()


def test_a_zombie_that_comes_back_changes_nothing(
    zombie: tuple[Any, Any], shards: Path, place: OutputPlace, unbroken: Any
) -> None:
    config, child = zombie
    wait_until_stopped(child.pid)
    assert not run_job(config).failures
    before = everything(config)
    os.kill(child.pid, signal.SIGCONT)
    child.join(timeout=300)
    assert child.exitcode == 0
    assert everything(config) == before
    assert_whole(config, unbroken)


def everything(config: Any) -> dict[str, bytes]:
    """All objects of a dataset but the runs' own records."""
    store = store_of(config)
    paths = [info.path for info in store.list(recursive=True)]
    return {path: store.read(path) for path in paths if not path.startswith("_runs/")}


def wait_until_stopped(pid: int) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)
    raise AssertionError("the child did not stop")
