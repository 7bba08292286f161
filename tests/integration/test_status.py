"""A driver is killed in the middle of a job: what status says of the dataset is what verify and the commits say."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.dataset import Dataset
from pipeline.runs import _BEAT_SECONDS
from pipeline.status import StatusReader
from pipeline.verify import verify_dataset
from tests.integration.places import new_place, pack_small_shards, run_in_child, small_job
from tests.jobs_for_tests import store_of
from tests.support import ROOT


def test_after_a_kill(tmp_path: Path) -> None:
    """Each shard has four parts; it dies in its fourth one's third, with no chance to say so."""
    config = small_job(pack_small_shards(tmp_path / "in", 4), new_place(None, tmp_path))
    begun = datetime.now(UTC)
    assert run_in_child(config, {"VIDTOK_CRASH_AT": "commit-put@2"}) == -signal.SIGKILL
    died = datetime.now(UTC)
    store = store_of(config)
    command = [sys.executable, "-m", "jobs.cli", "status", config.output, "--json"]
    said = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    dataset = Dataset.open(store)
    verdict, commits = verify_dataset(dataset), list(dataset.commits())
    assert (said["done"], said["rows"]) == (verdict.shards, verdict.rows)
    assert said["shards"] - said["done"] == verdict.uncommitted == 2
    for name in ("rows", "tokens", "videos", "video_bytes"):
        assert said[name] == sum(commit[name] for commit in commits) > 0
    assert [(reject["name"], reject["rejects"]) for reject in said["rejects"]] == [("unreadable", 2)]
    (run,) = said["runs"]
    assert datetime.fromisoformat(run["heartbeat"]) >= begun
    assert run["driver"]["host"] and run["bytes_total"] > 0, "though it died before its second heartbeat"
    # A minute after its death, as whoever looks then sees it; and not while it may be alive.
    for seconds, state in ((60, "gone"), (0, "running")):
        at = (died if seconds else datetime.fromisoformat(run["heartbeat"])) + timedelta(seconds=seconds)
        (seen,) = StatusReader(store, now=lambda at=at: at).read().runs
        assert seen.state == state
    assert (died - datetime.fromisoformat(run["heartbeat"])).total_seconds() < _BEAT_SECONDS + 30
