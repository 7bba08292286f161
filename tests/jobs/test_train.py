"""What a training refuses before any worker starts, and what it goes on with; the workers are in integration/."""

import json
from pathlib import Path
from typing import Any

import pytest

import jobs.train
from jobs.train import run_training
from jobs.train_config import TrainingJob
from jobs.training_states import TrainingStates
from pipeline.errors import ConfigError
from pipeline.storage import open_store
from tests.media import gradient_frames, make_video
from tests.vidtok_model.support import TINY, TINY_FSQ, TINY_KL, fill
from vidtok_model import VideoTokenizer, save_tokenizer

PLAIN: dict[str, Any] = {
    "clips": {"num_frames": 5, "size": 16},
    "batch_size": 2,
    "training": {"steps": 2, "adversarial": None},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where two folders of videos lie; the workers' part is to save a state."""
    for name in ("videos", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.mp4").write_bytes(make_video(gradient_frames(8, 16, 16), fps=10))

    def fit(job: TrainingJob, start: object) -> None:
        TrainingStates(open_store(job.output, None), keep=2).save(1, {"step": 1})

    monkeypatch.setattr(jobs.train, "_fit", fit)
    return tmp_path


def job_of(folder: Path, *, model: dict[str, Any] | None = None, **changes: Any) -> TrainingJob:
    model = model or {"name": "tiny", "architecture": {**TINY, "latent_channels": 3}}
    given = {"input": {"videos": f"{folder}/videos/"}, "output": str(folder / "out"), "model": model}
    return TrainingJob.model_validate({**PLAIN, **given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "fsq.safetensors"}, r"model\.start: .*fsq\.safetensors is of tiny_fsq, .* its fsq_levels is"),
        ({"lpips": ["lpips.pth"]}, r"lpips: .*lpips\.pth: there is no such file"),
        ({"validation": {"input": {"videos": "nowhere/"}}}, "nowhere"),
    ],
)
def test_what_no_worker_could_do_is_told_first_and_leaves_the_output_free(
    folder: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    save_tokenizer(fill(VideoTokenizer(TINY_FSQ)), folder / "fsq.safetensors")
    save_tokenizer(fill(VideoTokenizer(TINY_KL)), folder / "kl.safetensors")
    architecture = {**TINY, "latent_channels": 3}
    start = changes.pop("start", "kl.safetensors")
    with pytest.raises(ConfigError, match=message):
        run_training(job_of(folder, model={"name": "tiny_kl", "architecture": architecture, "start": start}, **changes))
    assert not (folder / "out" / "training.json").exists()
    run_training(job_of(folder, model={"name": "tiny_kl", "architecture": architecture, "start": "kl.safetensors"}))


def test_a_stage_that_has_begun_is_held_to_its_input(folder: Path) -> None:
    run_training(job_of(folder))
    run_training(job_of(folder, save_every=7))
    with pytest.raises(ConfigError, match=r"another stage of training stands in .*\n.*input"):
        run_training(job_of(folder, input={"videos": f"{folder}/others/"}))
    with pytest.raises(ConfigError, match=r"batch_size: the stage has 2, the job wants 3"):
        run_training(job_of(folder, batch_size=3))
    assert TrainingStates(open_store(str(folder / "out"), None), keep=2).newest() == (1, {"step": 1})


def test_a_stage_that_never_began_may_be_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(jobs.train, "_fit", lambda job, start: None)
        run_training(job_of(folder))
    run_training(job_of(folder, batch_size=4))
    assert json.loads((folder / "out" / "training.json").read_text())["plan"]["batch_size"] == 4


@pytest.mark.parametrize(
    "content", [b"", b"garbage", bytes(64), b"\x80\x02K\x01."], ids=["empty", "text", "0", "pickle"]
)
def test_a_broken_state_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "step-000000003.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"step-000000003\.pt: cannot be read \(\w+\); remove it to go on before it"):
        TrainingStates(open_store(str(tmp_path), None), keep=2).newest()
