"""vidtok bench schedule: how many shards a second a driver hands out through Ray, and what memory it takes.

The shards are to take none of their videos, so that all that is measured is what each costs beside those: to be handed
out, opened and committed. Run as a module, this is the driver that is measured.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import JobConfig
from pipeline.errors import Stopped
from pipeline.inputs import inputs_path
from pipeline.job import Progress, prepare, run_job
from pipeline.plan import make_plan
from pipeline.records import Shard
from pipeline.shard_log import commit_path
from pipeline.shard_table import ShardTable
from pipeline.storage import open_store

__all__ = ["ScheduleResult", "bench_schedule"]

# As deep as buckets are.
_TAR = "corpus/2026/videos-00/shard-000000.tar"
_EMPTY_TAR = bytes(1024)
# Of the million, so many are done: its plan is what takes memory.
_DONE_OF_PLANNED = 2000


@dataclass(frozen=True)
class ScheduleResult:
    """What was measured.

    Attributes:
        workers: Ray actors, and threads of the baseline.
        shards: done and committed.
        shards_per_second: from the first commit to the last.
        commits_per_second: of the baseline, which writes the same commits and does nothing else.
        ratio: ours to the baseline.
        planned: shards that stood in the plan when memory was measured.
        peak_bytes: the largest resident memory of the driver's process then.
        peak_bytes_done: the same of the driver that did all of `shards`.
    """

    workers: int
    shards: int
    shards_per_second: float
    commits_per_second: float
    ratio: float
    planned: int
    peak_bytes: int
    peak_bytes_done: int


def bench_schedule(*, shards: int, planned: int, workers: int) -> ScheduleResult:
    """Measures a run over `shards`, and the memory of a driver with `planned` ones; in a folder for temporary files."""
    with _folder() as folder:
        done = _drive(_job(folder, workers), shards, stop_after=None)
        (commit, *_) = (folder / "out/_commits").iterdir()
        bare = _bare_commits(folder, commit.read_bytes(), shards, workers)
    with _folder() as folder:
        large = _drive(_job(folder, workers), planned, stop_after=min(planned, _DONE_OF_PLANNED))
    return ScheduleResult(
        workers=workers,
        shards=shards,
        shards_per_second=done["rate"],
        commits_per_second=bare,
        ratio=done["rate"] / bare,
        planned=planned,
        peak_bytes=large["peak_bytes"],
        peak_bytes_done=done["peak_bytes"],
    )


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vidtok-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _job(folder: Path, workers: int) -> JobConfig:
    tar = folder / "in" / _TAR
    tar.parent.mkdir(parents=True)
    tar.write_bytes(_EMPTY_TAR)
    model = {"name": "vidtok_fsq_causal_488_32768", "checkpoint": "random", "overrides": {"base_channels": 16}}
    executor = {"kind": "ray", "address": "local", "num_workers": workers, "cpus_per_worker": 0.5}
    raw = {"input": {"shards": f"{folder}/in/corpus/"}, "output": f"{folder}/out", "model": model, "executor": executor}
    return JobConfig.model_validate(raw)


def _drive(config: JobConfig, num_shards: int, stop_after: int | None) -> dict[str, Any]:
    """Freezes so many shards, which are all the same tar, and runs a driver over them in a process of its own."""
    plan = make_plan(config)
    (tar,) = plan.found
    dice = random.Random(0)
    shards = (  # as a bucket's: with etags that do not compress
        Shard(
            shard_id=f"shard-{number:06d}-{dice.randbytes(5).hex()}",
            path=tar.path,
            size_bytes=tar.size_bytes,
            etag=dice.randbytes(16).hex(),
            only=(),
        )
        for number in range(num_shards)
    )
    plan.store.put(inputs_path(0), ShardTable.file_of(shards))
    prepare(plan)
    order = json.dumps({"config": config.model_dump(mode="json"), "stop_after": stop_after})
    command = [sys.executable, "-m", "jobs.bench.schedule"]
    driver = subprocess.run(command, input=order, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(driver.stdout.splitlines()[-1])
    return result


def _bare_commits(folder: Path, data: bytes, number: int, workers: int) -> float:
    """Commits a second where nothing else is done."""
    store = open_store(str(folder / "bare"))
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        for is_ours in threads.map(
            lambda n: store.put_if_absent(commit_path(f"shard-{n:06d}-0123456789"), data), range(number)
        ):
            assert is_ours
    return number / (time.perf_counter() - began)


def _main() -> None:
    order = json.load(sys.stdin)
    began = ended = first = 0.0
    done = 0

    def on_progress(progress: Progress) -> None:
        nonlocal began, ended, first, done
        if progress.shards_done > done:
            done, ended = progress.shards_done, time.perf_counter()
            first, began = (first, began) if began else (done, ended)
        if order["stop_after"] is not None and done >= order["stop_after"]:
            raise Stopped("enough")

    try:
        failures = run_job(JobConfig.model_validate(order["config"]), on_progress).failures
        assert not failures, failures
    except Stopped:
        pass
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()
    result = {"rate": (done - first) / (ended - began), "peak_bytes": int(status[0]) * 1024}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    _main()
