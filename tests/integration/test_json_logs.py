"""A job whose records are JSON: the driver's and its workers', each with what it is about, and no secret in any."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipeline.job import prepare
from pipeline.plan import make_plan
from tests.jobs_for_tests import job
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT

SECRET = "AKIAPLANTEDKEY000001"


def run(tmp_path: Path, *words: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    """The command's exit code and its records."""
    command = [sys.executable, "-m", "jobs.cli", "tokenize", str(tmp_path / "job.yaml"), *words]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.usefixtures("ray_cluster")
def test_driver_and_workers_say_what_their_records_are_about(tmp_path: Path) -> None:
    video = make_video(gradient_frames(20))
    for number, key in enumerate(("twice", SECRET, "other")):
        pack_tar(tmp_path / f"in/{number}.tar", [(f"{name}.mp4", video) for name in (key, "once", key)])
    address = ray.get_runtime_context().gcs_address
    executor = {"kind": "ray", "address": address, "cpus_per_worker": 1, "num_workers": 2, "max_attempts": 2}
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 16}, executor=executor)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    # One tar is no longer what was listed.
    shards = {shard.path: shard.shard_id for shard in prepare(make_plan(config))}
    pack_tar(tmp_path / "in/2.tar", [(f"{number}.mp4", video) for number in range(30)])
    # Ray would leave out of lines that are alike all but one.
    code, records = run(tmp_path, VIDTOK_LOG_FORMAT="json", RAY_DEDUP_LOGS="1")
    assert code == 1, records
    (run_record,) = (tmp_path / "out/_runs").iterdir()
    # That a key stands there twice: workers say so, each of its shard, from the thread that reads.
    twice = [record for record in records if record["logger"] == "pipeline.samples"]
    assert {(record["shard"], record["video"]) for record in twice} == {
        (shards["0.tar"], "twice"),
        (shards["1.tar"], "..."),
    }
    failed = [record for record in records if record["logger"] in ("pipeline.executors.shard_queue", "pipeline.job")]
    assert [record["level"] for record in failed] == ["WARNING", "ERROR"]
    assert {record["shard"] for record in failed} == {shards["2.tar"]} and "worker" not in failed[0]
    assert {record["run"] for record in (*twice, *failed)} == {run_record.stem}
    assert all(record["node"] and len(record["worker"]) == 56 and record["pid"] != failed[0]["pid"] for record in twice)


def test_what_ends_a_command_is_a_record_too(tmp_path: Path) -> None:
    config = job(tmp_path / "gone", tmp_path / "out").model_dump(mode="json")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    code, records = run(tmp_path, "--log-format", "json")
    assert code == 2
    assert records[0]["level"] == "WARNING" and records[0]["message"].startswith("RANDOM WEIGHTS")
    assert records[-1]["level"] == "ERROR" and "nothing matches" in records[-1]["message"]
