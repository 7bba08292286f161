"""Placement by Ray: what an actor gets, and what its death costs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.exceptions import OutOfMemoryError
from safetensors.torch import save_file

import pipeline.executors.ray
from pipeline.errors import ConfigError
from pipeline.executors.ray import _resources
from pipeline.job import Progress, run_job
from pipeline.model_config import ModelConfig
from tests.jobs_for_tests import dataset_rows, job
from tests.media import gradient_frames, make_video, pack_tar
from tests.process_tree import below
from tests.support import ROOT
from vidtok_model import MODELS, random_tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_SHARDS, NUM_VIDEOS = 3, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    data = make_video(gradient_frames(68))
    for number in range(NUM_SHARDS):
        pack_tar(folder / f"{number}.tar", [(f"v{video}.mp4", data) for video in range(NUM_VIDEOS)])
    return folder


def ray_job(shards: Path, output: Path, **executor: Any) -> Any:
    ray_executor = {"kind": "ray", "cpus_per_worker": 0.5, **executor}
    return job(shards, output, clips={"fps": None}, executor=ray_executor)


def worker_pids() -> list[int]:
    """The processes of our actors, by the title that Ray gives them."""
    return [process.pid for process in below(os.getpid()) if process.command.startswith("ray::ShardActor")]


def test_gpus_may_be_shared_and_are_found_by_default(shards: Path, tmp_path: Path) -> None:
    seen: dict[str, float] = {}

    def look(_: Progress) -> None:
        if len(worker_pids()) == 2 and not seen:
            seen.update(ray.available_resources())

    config = ray_job(shards, tmp_path / "out", num_workers=2, gpus_per_worker=0.5)
    result = run_job(config, look)
    assert not result.failures
    assert seen["GPU"] == 1.0, "two halves of the two GPUs are taken"
    assert seen["CPU"] == 3.0
    by_default = ray_job(shards, tmp_path / "other", num_workers=1).executor
    assert by_default.gpus_per_worker is None and _resources(by_default)["num_gpus"] == 1.0


@pytest.mark.slow
def test_more_workers_than_fit_do_not_stop_the_job(shards: Path, tmp_path: Path) -> None:
    config = ray_job(shards, tmp_path / "out", num_workers=3, gpus_per_worker=2)
    assert run_job(config).progress.shards_done == NUM_SHARDS


def kill_one_worker(when: Callable[[], bool], how: int = signal.SIGKILL) -> threading.Thread:
    def wait_and_kill() -> None:
        while not when():
            time.sleep(0.02)
        os.kill(worker_pids()[0], how)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_killed_worker_costs_an_attempt_and_no_row(shards: Path, tmp_path: Path) -> None:
    # One attempt is lost, by the shard that the worker had; the others wait until it is there again.
    config = ray_job(shards, tmp_path / "out", num_workers=1, gpus_per_worker=0, max_attempts=2)
    parts = tmp_path / "out" / "data"
    killer = kill_one_worker(lambda: parts.is_dir() and any(parts.iterdir()))
    result = run_job(config)
    killer.join()
    assert not result.failures and result.progress.shards_done == NUM_SHARDS
    reference = job(shards, tmp_path / "reference", clips={"fps": None})
    run_job(reference)
    assert dataset_rows(config).equals(dataset_rows(reference))
    assert dataset_rows(config).num_rows == NUM_SHARDS * NUM_VIDEOS * 4


def test_a_shard_that_fails_is_given_up_and_the_others_are_committed(shards: Path, tmp_path: Path) -> None:
    taken = tmp_path / "out" / "data"
    for path in shards.iterdir():
        pack_tar(tmp_path / "in" / path.name, [("v.mp4", make_video(gradient_frames(20)))])
    config = ray_job(tmp_path / "in", tmp_path / "out", num_workers=1, gpus_per_worker=0, max_attempts=2)

    def spoil(progress: Progress) -> None:
        if not taken.exists():  # the list of shards is frozen, and no work is done
            pack_tar(tmp_path / "in" / "1.tar", [("v.mp4", b"x" * 30_000)])

    result = run_job(config, spoil)
    assert result.progress.shards_done == NUM_SHARDS - 1
    (failure,) = result.failures
    assert (failure.path, failure.attempts) == ("1.tar", 2)
    assert "when the input was listed" in failure.error and "Traceback" not in failure.error


def test_weights_that_do_not_fit_leave_nothing_behind(shards: Path, tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    small = MODELS["vidtok_fsq_causal_488_32768"].replace(base_channels=16)
    save_file(random_tokenizer(small, seed=1).state_dict(), weights)
    model = ModelConfig(name="vidtok_kl_causal_488_4chn", checkpoint=str(weights))
    config = job(shards, tmp_path / "out", executor={"kind": "ray", "gpus_per_worker": 0})
    with pytest.raises(ConfigError, match=r"model\.checkpoint: .*other\.safetensors"):
        run_job(config.model_copy(update={"model": model}))
    assert not (tmp_path / "out").exists(), "nothing was done, so the job can be mended and run"


def test_a_worker_that_the_memory_monitor_kills_is_replaced(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray says that in an error of its own, which is none of those of dead actors."""
    config = ray_job(shards, tmp_path / "out", num_workers=1, gpus_per_worker=0, max_attempts=2)
    real, killed = ray.get, []

    def get(answer: Any) -> Any:
        value = real(answer)
        if isinstance(value, tuple) and not killed:
            killed.append(worker_pids()[0])
            os.kill(killed[0], signal.SIGKILL)
            raise OutOfMemoryError("killed by the memory monitor")
        return value

    monkeypatch.setattr(pipeline.executors.ray.ray, "get", get)
    result = run_job(config)
    assert killed and not result.failures and result.progress.shards_done == NUM_SHARDS


SPOILT = """
import os
import pipeline.worker as worker
real = worker.ShardWorker.tokenize

def tokenize(self, shard):
    try:
        os.link(os.environ["SPOILT"], os.environ["SPOILT"] + str(os.getpid()))
        os.rename(os.environ["SPOILT"], os.environ["SPOILT"] + "-taken")
        self.is_spoilt = True
    except OSError:
        pass
    if getattr(self, "is_spoilt", False):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return real(self, shard)

worker.ShardWorker.tokenize = tokenize
"""


@pytest.mark.slow
def test_a_process_that_fails_everything_is_replaced(tmp_path: Path) -> None:
    """As one with a broken CUDA context, which would take all shards, each in no time."""
    for number in range(8):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", make_video(gradient_frames(20)))])
    config = ray_job(tmp_path / "in", tmp_path / "out", num_workers=2, address="local", max_attempts=2)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(SPOILT)
    (tmp_path / "spoilt").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}", "SPOILT": str(tmp_path / "spoilt")}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(tmp_path / "job.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("attempt 1 of 2 failed") == 1 and "CUDA error" in done.stderr
