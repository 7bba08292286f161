"""The training job file: what is refused, and that the ready ones can be read."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.train_config import TrainingJob
from pipeline.errors import ConfigError
from pipeline.job_file import load_file
from tests.jobs_for_tests import merge
from tests.support import ROOT

PLAIN: dict[str, Any] = {
    "input": {"videos": "videos/"},
    "output": "out",
    "model": {"name": "vidtok_kl_causal_488_4chn"},
}
READY = sorted((ROOT / "jobs/configs/training").glob("*.yaml"))


def load(tmp_path: Path, **changes: Any) -> TrainingJob:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(merge(PLAIN, changes)))
    return load_file(path, [], TrainingJob)


def test_all_are_found() -> None:
    assert {path.stem for path in READY} == {"fine_tune", "tiny_stage1", "tiny_stage2", "stage1", "stage2"}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_files(path: Path) -> None:
    job = load_file(path, ["executor.decoders=2"], TrainingJob)
    assert job.executor.decoders == 2


def test_the_defaults_are_the_published_first_stage(tmp_path: Path) -> None:
    job = load(tmp_path)
    assert (job.clips.num_frames, job.clips.fps, job.clips.size, job.batch_size) == (17, 3, 128, 16)
    training = job.training
    assert (training.trains, training.steps, training.learning_rate, training.clip_norm) == ("all", 50_000, 1e-5, 20)
    assert (training.precision, training.kl_weight, training.fsq_weight) == ("bf16", 1e-6, 1)
    adversarial = training.adversarial
    assert adversarial is not None
    assert (adversarial.weight, adversarial.start, adversarial.lecam_weight) == (0.2, 10_000, 0.005)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"stepz": 3}}, r"training\.stepz: there is no such key; did you mean steps\?"),
        ({"training": {"adversarial": {"wait": 1}}}, r"training\.adversarial\.wait: there is no such key"),
        ({"training": {"steps": 0}}, "training: steps: 0: expected at least 1"),
        ({"training": {"trains": "encoder"}}, r"training\.trains: Input should be 'all' or 'decoder'"),
        ({"clips": {"num_frames": 18}}, "clips: num_frames=18: vidtok_kl_causal_488_4chn takes"),
        ({"clips": {"num_frames": 16}}, r"clips\.num_frames: vidtok_kl_causal_488_4chn gives back 13 of 16 frames"),
        ({"clips": {"size": 100}}, "clips: frame size 100x100"),
        ({"clips": {"resize": 64}}, r"clips\.resize: 64 is below clips\.size, 128"),
        ({"batch_size": 6, "executor": {"num_workers": 4}}, "batch_size: 6 cannot be divided among 4 workers evenly"),
        ({"model": {"name": "vidtok_kl"}}, "unknown model 'vidtok_kl'"),
        ({"model": {"architecture": {"latent_channels": 0}}}, "latent_channels holds 0"),
        ({"model": {"architecture": {"width": 3}}}, "unknown configuration field width"),
        ({"clips": {"size": 16}}, r"clips\.size: 16: the discriminator needs 24 pixels, or adversarial: null"),
        (
            {"model": {"name": "vidtok_tiny_fsq_causal_488_1073741824"}},
            r"training\.fsq_weight: the entropy of 1,073,741,824 codes cannot be taken; expected 0 where",
        ),
        ({"training": {"learning_rate": math.inf}}, "learning_rate: inf: expected above 0"),
        ({"modle": {}}, "modle: there is no such key; did you mean model"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **changes)


def test_paths_hold_in_workers_that_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = load(tmp_path, lpips=["vgg.pth", "s3://bucket/vgg.pth"], model={"start": "start.safetensors"})
    assert job.lpips == [str(tmp_path / "vgg.pth"), "s3://bucket/vgg.pth"]
    assert (job.output, job.model.start) == (str(tmp_path / "out"), str(tmp_path / "start.safetensors"))


def test_every_key_is_described() -> None:
    schema = TrainingJob.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    lacking = [
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section.get("properties", {}).items()
        if not (field.get("description") or "$ref" in field or "anyOf" in field)
    ]
    assert lacking == []
