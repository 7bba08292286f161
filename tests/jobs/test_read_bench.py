"""vidtok bench read: every loader gives each row once, and the ratio is that of two rates."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.bench import read
from jobs.bench.read import LOADERS, bench_read
from pipeline.errors import ConfigError

# Others come with `make peers`, into a Python of their own.
INSTALLED = ("webdataset", "datasets", "pyarrow")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_each_loader_gives_each_row_once(workers: int) -> None:
    """What `bench_read` itself checks, by the sum of the rows' first tokens."""
    results = {result.loader: result for result in bench_read(rows=200, runs=1, workers=workers, batch_size=8)}
    assert tuple(results) == LOADERS
    for name, result in results.items():
        if name.startswith("TokenDataset") or name in INSTALLED:
            assert result.missing is None and result.per_second > 0 and result.per_core_second > 0
        else:
            assert result.missing in (None, f"no module {name.partition(',')[0]}")
    assert results["TokenDataset, cached"].ratio == 1


def test_latents_are_read_by_ours_alone() -> None:
    results = bench_read(rows=64, runs=1, workers=0, batch_size=8, kind="latents")
    assert [result.loader for result in results] == ["TokenDataset", "TokenDataset, cached"]


def test_a_loader_that_loses_a_row_is_no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    program = read._program
    monkeypatch.setattr(read.peers, "READERS", {"pyarrow": read.peers.pyarrow_batches})

    def losing(name: str, task: dict[str, Any], python: str | None) -> str:
        answer = program(name, task, python)
        if name == "pyarrow" and task["action"] == "read":
            found = json.loads(answer.splitlines()[-1])
            return json.dumps({**found, "sum": found["sum"] - 40})
        return answer

    monkeypatch.setattr(read, "_program", losing)
    with pytest.raises(ConfigError, match="pyarrow gave 200 rows, or others, expected each of 200 once"):
        bench_read(rows=200, runs=1, workers=0, batch_size=8)


def test_the_ratio_is_that_of_two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"TokenDataset": 4.0, "TokenDataset, cached": 1.0, "pyarrow": 2.0}

    def told(name: str, task: dict[str, Any], python: str | None) -> str:
        found = {"rows": 64, "timed_rows": 60, "sum": task["sum"], "seconds": seconds[name], "cpu_seconds": 3.0}
        return json.dumps(found)

    monkeypatch.setattr(read, "_program", told)
    monkeypatch.setattr(read, "_lacking", lambda name, task, python: None if name == "pyarrow" else "not here")
    results = {result.loader: result for result in bench_read(rows=64, runs=3, workers=0, batch_size=8)}
    assert [results[name].ratio for name in seconds] == [4.0, 1.0, 2.0]
    assert results["pyarrow"].per_second == 60 * 5120 / 2 and results["pyarrow"].per_core_second == 60 * 5120 / 3
    assert results["litdata"].missing == "not here"


def test_the_peers_know_nothing_of_this_project() -> None:
    """They run in a Python that may not have it."""
    source = Path(read.peers.__file__).read_text()
    assert not any(f"{word} {package}" in source for word in ("import", "from") for package in ("pipeline", "jobs"))
