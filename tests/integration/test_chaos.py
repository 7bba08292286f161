"""Whatever is killed, at whatever moment: the dataset is that of an unbroken run, and nothing is left behind."""

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from tests.process_tree import send_kill
from tests.support import ROOT, require_module

SHORT = {"worker": 4, "decoder": 3, "driver": 1, "node": 1, "store": 1}
# A fork server is none of the decoders that must be killed.
FULL = {"worker": 21, "decoder": 13, "forkserver": 2, "driver": 4, "node": 2, "store": 2}
SEEDS = range(1, 6)
AT_LEAST = {"worker": 100, "decoder": 60, "driver": 20, "node": 10, "store": 10}


def chaos(seed: int, kills: dict[str, int], *options: object) -> dict[str, Any]:
    """What a harness of its own prints: its cluster must not meet that of the other tests."""
    require_module("localbucket")
    require_module("s3fs")
    words = ",".join(f"{kind}={count}" for kind, count in kills.items())
    command = [sys.executable, "-m", "tests.chaos", "--seed", seed, "--kills", words, "--json", *options]
    with subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as harness:
        try:
            said, _ = harness.communicate()
        finally:
            harness.terminate()  # it ends all that it started; if it is done, this does nothing
    assert said, f"the harness ended with {harness.returncode}; what it said is above"
    return json.loads(said)


def assert_sound(result: dict[str, Any], kills: dict[str, int]) -> None:
    assert [job["problem"] for job in result["jobs"]] == [""] * len(result["jobs"])
    assert all(job["equal"] for job in result["jobs"])
    assert result["kills"] == kills
    assert sum((Counter(job["kills"]) for job in result["jobs"]), Counter()) == kills
    print(result["kills"], f"in {len(result['jobs'])} jobs, {result['seconds']} s")


def test_ten_kills_of_all_kinds() -> None:
    result = chaos(1, SHORT, "--shards", 3, "--mean-seconds", 1, "--within-seconds", 500)
    assert sum(result["kills"].values()) == 10
    assert_sound(result, SHORT)


def test_the_seeds_kill_as_often_as_they_should() -> None:
    total = Counter({kind: count * len(SEEDS) for kind, count in FULL.items()})
    assert total >= Counter(AT_LEAST) and sum(total[kind] for kind in AT_LEAST) >= 200


def test_who_is_left_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends what it sees of a dead worker's children, so no job shows that the harness would."""
    from tests import chaos as harness  # which imports Ray
    from tests.chaos_cluster import FORK_SERVER, Victims

    monkeypatch.setattr(harness, "_OUTLIVE_SECONDS", 0.2)
    start = '"$0" -c "import time; time.sleep(60)" "$1" & wait'
    with subprocess.Popen(["sh", "-c", start, sys.executable, FORK_SERVER]) as parent:
        chaos = object.__new__(harness.Chaos)
        chaos._victims, chaos._doomed = Victims(parent.pid, ()), []
        while not (left := chaos._victims.all()):
            time.sleep(0.02)
        with pytest.raises(harness.Fault, match=rf"job that ended.*pid={left[0].pid},"):
            chaos._wait_until_all_ended()
        chaos._doomed = [(0.0, left[0])]
        with pytest.raises(harness.Fault, match=rf"what was killed.*pid={left[0].pid},"):
            chaos._look_for_left_behind()
        assert send_kill(left[0])
        parent.wait()
        chaos._look_for_left_behind()
        chaos._wait_until_all_ended()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_many_kills(seed: int) -> None:
    assert_sound(chaos(seed, FULL, "--within-seconds", 1700), FULL)
