"""`vidtok train` on Ray Train: stopped and gone on with, on one worker and on two."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from tests.jobs_for_tests import merge
from tests.media import gradient_frames, make_video, pack_tar
from tests.process_tree import below, send_kill
from tests.support import ROOT
from vidtok_model import load_tokenizer, read_config

TINY = {
    "base_channels": 4,
    "channel_multipliers": [1, 2],
    "spatial_down_levels": [0],
    "temporal_down_levels": [0, 1],
    "spatial_up_levels": [1],
    "temporal_up_levels": [0, 1],
    "latent_channels": 3,
}
KL, FSQ = TINY, {**TINY, "fsq_levels": [8, 8, 8]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    clips = [make_video(gradient_frames(20 + number, 32, 48), fps=10) for number in range(5)]
    pack_tar(folder / "0.tar", [(f"{number}.mp4", data) for number, data in enumerate(clips)])
    return folder


def job_file(videos: Path, output: Path, **changes: Any) -> Path:
    plain = {
        "input": {"shards": str(videos)},
        "output": str(output),
        "model": {"name": "tiny", "architecture": KL},
        "clips": {"num_frames": 5, "fps": 5, "size": 16},
        "batch_size": 4,
        "training": {"steps": 8, "learning_rate": 1e-3, "precision": "fp32", "adversarial": None},
        "validation": {"input": {"shards": str(videos)}, "every": 4, "num_clips": 2},
        "save_every": 2,
        "log_every": 1,
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(merge(plain, changes)))
    return path


def start(job: Path) -> subprocess.Popen[str]:
    """A driver with a Ray of its own."""
    command = [sys.executable, "-m", "jobs.cli", "train", str(job)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"}, **pipes)


def train(videos: Path, output: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Trains to the end; the model's weights."""
    driver = start(job_file(videos, output, **changes))
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    return safetensors.torch.load_file(output / "model.safetensors")


def kill_all(driver: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver, its Ray and every worker."""
    for process in [*below(driver.pid)]:
        send_kill(process)
    driver.kill()
    driver.communicate(timeout=60)


@pytest.fixture(scope="module")
def unbroken(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    output = tmp_path_factory.mktemp("unbroken") / "out"
    return output, train(videos, output)


def furthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((value - right[name]).abs().max()) for name, value in left.items())


def assert_all_events(output: Path) -> Any:
    """Each iteration's figures are in TensorBoard's files, once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/l1")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("validation/psnr")] == [4, 8]
    return events


def test_what_a_stage_leaves(unbroken: tuple[Path, dict[str, torch.Tensor]]) -> None:
    output, weights = unbroken
    assert read_config(output / "model.safetensors").to_dict() | {"name": "tiny"} == {
        **read_config(output / "model.safetensors").to_dict(),
        **KL,
        "name": "tiny",
    }
    load_tokenizer(None, output / "model.safetensors")
    assert sorted(path.name for path in (output / "states").iterdir()) == ["step-000000006.pt", "step-000000008.pt"]
    plan = json.loads((output / "training.json").read_text())["plan"]
    assert plan["training"]["steps"] == 8 and plan["start"] == "seed 0"
    events = assert_all_events(output)
    assert [(event.step, event.width, event.height) for event in events.Images("validation/0")] == [
        (4, 5 * 16, 2 * 16),
        (8, 5 * 16, 2 * 16),
    ]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_killed_and_gone_on_with_it_is_the_same(
    videos: Path, unbroken: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    driver = start(job_file(videos, output))
    deadline = time.monotonic() + 200
    while not (output / "states" / "step-000000004.pt").exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    kill_all(driver)
    assert not (output / "model.safetensors").exists()
    again = train(videos, output)
    expected = unbroken[1]
    assert again.keys() == expected.keys()
    assert [name for name, value in again.items() if not torch.equal(value, expected[name])] == []
    assert_all_events(output)


@pytest.mark.slow
def test_two_workers_learn_what_one_does(videos: Path, tmp_path: Path) -> None:
    """The same batches, shared out; FSQ's mean over the codebook is that of both. Weights go by 1e-3 a step."""
    changes = {"model": {"architecture": FSQ}, "validation": None}
    one = train(videos, tmp_path / "one", **changes)
    two = train(videos, tmp_path / "two", executor={"num_workers": 2}, **changes)
    assert furthest(one, two) <= 2e-4


@pytest.mark.slow
def test_a_stage_goes_on_with_two_workers(
    videos: Path, unbroken: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    driver = start(job_file(videos, output))
    while not (output / "states" / "step-000000004.pt").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    kill_all(driver)
    assert furthest(train(videos, output, executor={"num_workers": 2}), unbroken[1]) <= 2e-4


@pytest.mark.slow
def test_the_second_stage_leaves_the_encoder(
    videos: Path, unbroken: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    first, weights = unbroken
    second = train(
        videos,
        tmp_path / "second",
        model={"start": str(first / "model.safetensors")},
        clips={"size": 32},
        training={"trains": "decoder", "steps": 2, "adversarial": {"start": 1}},
        validation=None,
    )
    for name, value in second.items():
        assert torch.equal(value, weights[name]) == name.startswith("encoder."), name
    driver = start(job_file(videos, tmp_path / "second", training={"steps": 3}))
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 2 and "another stage of training stands in" in said
    assert "training.steps: the stage has 2, the job wants 3" in said
