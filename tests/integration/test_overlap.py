"""Stages beside each other in a whole job: what is reported of them, and that they hold no more of a larger input."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Condition
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import flow
from pipeline.executors import WorkOrder
from pipeline.flow import tokenize_shard
from pipeline.job import run_job
from pipeline.plan import make_plan
from pipeline.progress import Counters
from pipeline.worker import ShardWorker
from tests.jobs_for_tests import job, store_of
from tests.media import pack_tar
from tests.support import ROOT

CLIP = ROOT / "jobs/clips/bigbuckbunny.mp4"
SMALL: dict[str, Any] = {"clips": {"fps": 2, "num_frames": 5, "size": 32}}


def packed(folder: Path, videos: int) -> Path:
    pack_tar(folder / "0.tar", [(f"{number:04d}.mp4", CLIP.read_bytes()) for number in range(videos)])
    return folder


def test_a_run_says_how_busy_each_stage_was(tmp_path: Path) -> None:
    config = job(packed(tmp_path / "in", 3), tmp_path / "out", **SMALL)
    counters = run_job(config).progress.counters
    assert set(counters.busy_seconds) == {"read", "decode", "encode", "write"}
    assert all(0 < counters.busy_share(stage) <= 1 for stage in counters.busy_seconds)
    assert counters.bottleneck in ("decode", "encode") and counters.busy_share("read") < 0.5
    assert counters.frames == counters.clips * 5 - _padded(tmp_path / "out")
    assert counters.bytes_written == sum(path.stat().st_size for path in (tmp_path / "out/data").iterdir())
    (record,) = store_of(config).list("_runs")
    said = json.loads(store_of(config).read(record.path))["work"]
    assert said == json.loads(json.dumps(counters.report()))
    assert said["busy_shares"].keys() == counters.busy_seconds.keys() and said["bytes_read"] == 3 * CLIP.stat().st_size


def _padded(output: Path) -> int:
    parts = [pq.read_table(path, columns=["num_padded_frames"]) for path in output.glob("data/*.parquet")]
    return sum(sum(part.column(0).to_pylist()) for part in parts)


@pytest.mark.parametrize("stage", ["read_shard", "cut_clips", "encode", "build_rows"])
def test_an_error_in_any_stage_ends_all_of_them(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out as it is; the next attempt finds a worker whose decoders are free."""
    config = job(packed(tmp_path / "in", 4), tmp_path / "out", **SMALL)
    plan = make_plan(config)
    (shard,) = plan.found
    worker = ShardWorker(WorkOrder(config=config, description=plan.description))
    real = getattr(flow, stage)

    def breaks(*given: Any, **more: Any) -> Any:
        yield from (item for item, _ in zip(real(*given, **more), range(2), strict=False))
        raise LookupError(f"{stage} broke")

    monkeypatch.setattr(flow, stage, breaks)
    with pytest.raises(LookupError, match=f"{stage} broke"):
        worker.tokenize(shard)
    monkeypatch.setattr(flow, stage, real)
    commit = worker.tokenize(shard)
    assert (commit["videos"], commit["rejects_by_class"]) == (4, {})
    worker.close()


def test_stages_are_at_work_at_the_same_time(tmp_path: Path) -> None:
    """While the encoder has its first batch, those behind it are decoded: the second begins with no wait for them."""
    config = job(packed(tmp_path / "in", 4), tmp_path / "out", **SMALL, executor={"batch_size": 1})
    plan = make_plan(config)
    (shard,) = plan.found
    worker = ShardWorker(WorkOrder(config=config, description=plan.description))
    decoded = 0
    real_cut, real_begin = flow.cut_clips, worker.work.encoder.begin
    seen: list[int] = []
    changed = Condition()

    def cut(*given: Any, **more: Any) -> Any:
        nonlocal decoded
        for item in real_cut(*given, **more):
            with changed:
                decoded += 1
                changed.notify_all()
            yield item

    def begin(clips: Any) -> Any:
        with changed:
            assert changed.wait_for(lambda: decoded >= min(6, len(seen) + 6), timeout=60)
            seen.append(decoded)
        return real_begin(clips)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "cut_clips", cut)
        patch.setattr(worker.work.encoder, "begin", begin)
        tokenize_shard(shard, replace(worker.work, counters=Counters()), attempt_id="0" * 32)
    worker.close()
    assert seen[0] >= 6  # before the first clip was encoded


_PROGRAM = """
import sys
from pipeline.job import run_job
from tests.jobs_for_tests import job
from tests.memory import peak_bytes
clips = {"fps": 2, "num_frames": 5, "size": 32}
result = run_job(job(sys.argv[1], sys.argv[2], clips=clips, rows={"part_bytes": 2**14}))
assert not result.failures
print(peak_bytes())
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_times_the_input_takes_the_same_memory(tmp_path: Path) -> None:
    """The smaller input is larger than what may stand between two stages."""
    peaks = []
    for videos in (80, 800):
        arguments = [str(packed(tmp_path / f"in-{videos}", videos)), str(tmp_path / f"out-{videos}")]
        done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    print(f"peaks: {peaks}")
    assert peaks[1] < 1.05 * peaks[0]
