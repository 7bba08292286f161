"""Whatever a video holds, it becomes rows or one reject, in time, and the worker does not grow."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from tests.fuzz_videos import LONGEST_SECONDS
from tests.support import ROOT

CLASSES = {"rows", "limit", "no_video", "truncated", "unreadable"}
# What FFmpeg may do, and did not yet: it would be no fault of ours.
DEATHS = {"crash", "memory", "timeout"}


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_mutated_videos(shared_videos: Path, count: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz_videos", str(count), "7", str(shared_videos)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    print(found["outcomes"], f"slowest {found['slowest']:.1f} s")
    assert found["in_order"], "each video once, in the order of the input"
    assert sum(found["outcomes"].values()) == count and found["outcomes"].keys() <= CLASSES | DEATHS
    assert sum(found["outcomes"].get(death, 0) for death in DEATHS) <= count / 500, run.stderr
    assert found["outcomes"]["rows"] > count / 20 and found["outcomes"]["unreadable"] > count / 20
    assert found["slowest"] < LONGEST_SECONDS
    memory = found["memory"]
    if count >= 2000:
        assert fmean(memory[-500:]) <= 1.05 * fmean(memory[100:600])
    else:
        assert max(memory[-100:]) <= 1.2 * max(memory[:100])
