"""The bound of a worker's memory, held against what a worker takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.demo import CLIPS
from pipeline.job_file import parse_job
from pipeline.worker_memory import worker_memory
from tests.support import ROOT
from vidtok_model import CARRIED, carried_weights

_RUN = """
import json, sys
from pipeline.job import run_job
from pipeline.job_file import parse_job
from tests.memory import peak_bytes
assert not run_job(parse_job(json.load(sys.stdin))).failures
print(peak_bytes())
"""


def test_a_worker_stays_below_it(tmp_path: Path) -> None:
    name = sorted(CARRIED)[0]
    raw: dict[str, Any] = {
        "input": {"videos": str(CLIPS)},
        "output": str(tmp_path / "out"),
        "model": {"name": name},
        "clips": {"size": 128, "fps": 12},
        "executor": {"kind": "inline", "batch_size": 8, "decoders": 2},
    }
    run = subprocess.run(
        [sys.executable, "-c", _RUN], input=json.dumps(raw), capture_output=True, text=True, check=True, cwd=ROOT
    )
    terms = worker_memory(
        parse_job(raw),
        weights_bytes=carried_weights(name).stat().st_size,
        video_bytes=max(path.stat().st_size for path in CLIPS.iterdir()),
        frame_bytes=3 * 128 * 128,
        rows_bytes=2**20,
    )
    bound = sum(term.size_bytes for term in terms if term.name != "decoders")
    peak = int(run.stdout)
    print(f"peak {peak / 2**20:.0f} MiB of {bound / 2**20:.0f}", *terms, sep="\n")
    assert 0.3 * bound < peak < bound


def test_what_it_grows_with() -> None:
    raw: dict[str, Any] = {
        "input": {"shards": "/x/*.tar"},
        "output": "/y",
        "model": {"name": sorted(CARRIED)[0]},
        "executor": {"cpus_per_worker": 2, "batch_size": 4},
    }
    sizes = {"weights_bytes": 2**20, "video_bytes": 2**28, "frame_bytes": 2**20, "rows_bytes": 2**20}

    def bound(changes: dict[str, Any] | None = None, **more: int) -> int:
        job = parse_job({**raw, **(changes or {})})
        return sum(term.size_bytes for term in worker_memory(job, **{**sizes, **more}))

    assert bound(video_bytes=2**29) - bound() == (1 + 2 + 2) * 2**28, "ahead, in two hands, and in two decoders"
    assert bound(weights_bytes=2**21) - bound() == 2 * 2**20
    assert bound({"rows": {"part_bytes": 2**27}}) - bound() == 4 * 2**26
    one_more = {"executor": {"cpus_per_worker": 2, "batch_size": 4, "decoders": 3}}
    assert bound(one_more) - bound() == 2**28 + 3 * 4 * 2**20 + 2 * 2**30
