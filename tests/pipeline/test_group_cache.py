"""The local cache of row groups: what goes in comes out, in bounds, with many processes and after any death."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import TokenDataset
from pipeline.reading.cache import GroupCache
from pipeline.reading.parts import CorruptPart
from pipeline.storage import Store
from tests.rows_for_tests import made_rows

ROWS = 1000


def table(number: int) -> pa.Table:
    return pa.table({"value": pa.array([number] * ROWS, pa.int64())})


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def test_what_is_made_once_is_read_from_then_on(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> pa.Table:
        made.append("")
        return table(7).replace_schema_metadata({"kept": "all"})

    for _ in range(3):  # as another process would
        found = GroupCache(str(tmp_path), 10**9).get("a", make)
        assert found.equals(table(7)) and found.schema.metadata == {b"kept": b"all"}
    assert len(made) == 1 and len(files(tmp_path)) == 1
    GroupCache(str(tmp_path), 10**9).get("b", make)
    assert len(made) == 2 and len(files(tmp_path)) == 2


def test_it_keeps_to_its_size_and_to_what_was_used_last(tmp_path: Path) -> None:
    cache = GroupCache(str(tmp_path), 3 * 9000)
    for number in range(3):
        cache.get(str(number), lambda number=number: table(number))
        os.utime(max(files(tmp_path), key=lambda path: path.stat().st_mtime_ns), (number, number))
    first = cache.get("0", lambda: pytest.fail("it is there"))
    held = cache.get("1", lambda: pytest.fail("it is there"))
    cache.get("3", lambda: table(3))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3 * 9000
    made: list[int] = []
    cache.get("0", lambda: made.append(0) or table(0))
    assert not made, "it was used after the others"
    for number in range(10, 20):
        cache.get(str(number), lambda number=number: table(number))
    assert held.equals(table(1)) and first.equals(table(0)), "what is mapped stays, whatever goes"


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    cache = GroupCache(str(tmp_path), 10**9)
    cache.get("a", lambda: table(1))
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    assert cache.get("a", lambda: table(2)).equals(table(2))
    assert cache.get("a", lambda: pytest.fail("it is there")).equals(table(2))


def test_a_full_disk_costs_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = GroupCache(str(tmp_path), 10**9)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.reading.cache.os.replace", full)
    assert cache.get("a", lambda: table(5)).equals(table(5))
    assert not list(tmp_path.glob("*.arrow")) and not list(tmp_path.glob("*.tmp"))


PROGRAM = """
import json, sys
import pyarrow as pa
from pipeline.reading.cache import GroupCache
cache = GroupCache(sys.argv[1], int(sys.argv[2]))
made = 0
def make(number):
    global made
    made += 1
    return pa.table({"value": pa.array([number] * 1000, pa.int64())})
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    number = turn % 10
    found = cache.get(str(number), lambda: make(number))
    assert found.column("value").to_pylist() == [number] * 1000
print(json.dumps(made), flush=True)
"""


def started(folder: Path, max_bytes: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, str(folder), str(max_bytes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def released(processes: list["subprocess.Popen[str]"]) -> None:
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize("max_bytes", [10**9, 4 * 9000])
def test_processes_share_it(tmp_path: Path, max_bytes: int) -> None:
    """Each finds what it should, and where there is room for all of it nothing is made twice."""
    processes = [started(tmp_path, max_bytes) for _ in range(3)]
    released(processes)
    made = [int(json.loads(process.communicate()[0])) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= max_bytes
    assert sum(made) == 10 if max_bytes == 10**9 else sum(made) > 10


def test_a_process_that_is_killed_leaves_nothing_that_is_half(tmp_path: Path) -> None:
    for number in range(6):
        process = started(tmp_path, 5 * 9000)
        released([process])
        until = time.monotonic() + 20
        while time.monotonic() < until and process.poll() is None and len(files(tmp_path)) < number % 4 + 1:
            time.sleep(0.001)  # until it has written some; then it dies wherever it is
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert all(pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows == ROWS for path in files(tmp_path))
    survivor = started(tmp_path, 5 * 9000)
    released([survivor])
    survivor.communicate(timeout=60)
    assert survivor.returncode == 0, "no lock and no file of the dead is in its way"


def test_a_warm_dataset_reads_nothing_from_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_rows(tmp_path / "data")
    options = {"batch_size": 4, "cache_dir": tmp_path / "cache", "columns": ["id", "caption"]}
    cold = [(batch["id"], batch["tokens"].tolist()) for batch in TokenDataset(tmp_path / "data", **options)]
    asked: list[str] = []
    monkeypatch.setattr(Store, "read_range", lambda store, path, *_: asked.append(path))
    warm = [(batch["id"], batch["tokens"].tolist()) for batch in TokenDataset(tmp_path / "data", **options)]
    assert warm == cold and not asked
    with pytest.raises(CorruptPart):  # of other columns the store is asked, which gives nothing here
        list(TokenDataset(tmp_path / "data", **{**options, "columns": ["width"]}))
