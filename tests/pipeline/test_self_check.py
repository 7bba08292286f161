"""A worker that does not compute what it should writes nothing, and says so."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pipeline.self_check
from pipeline.encode import ClipEncoder
from pipeline.errors import WorkerUnfit
from pipeline.executors import WorkOrder
from pipeline.job import run_job
from pipeline.plan import make_plan
from pipeline.records import Clip, EncodedClip
from pipeline.self_check import SelfCheck
from pipeline.worker import ShardWorker
from tests.jobs_for_tests import job
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT
from vidtok_model.golden import GOLDEN_MODEL, golden_difference, golden_mean, golden_tokenizer

# Loaded by each Python as it starts, and no part of the package: a device that computes wrongly.
SPOILT = """
import vidtok_model.golden as golden
golden.golden_mean = lambda real=golden.golden_mean: real() + 0.01
"""


def test_the_carried_mean_is_the_published_code_s() -> None:
    recorded = np.load(ROOT / f"tests/golden/{GOLDEN_MODEL}.npz")["mean"]
    assert np.array_equal(golden_mean(), recorded)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_arithmetic_explains_some_difference_and_no_more(dtype: str, torch_dtype: torch.dtype) -> None:
    SelfCheck(device="cpu", dtype=dtype)
    tokenizer = golden_tokenizer().compute_in(torch_dtype)
    tolerance = pipeline.self_check._TOLERANCES[dtype]
    assert golden_difference(tokenizer) < tolerance / 5
    with torch.no_grad():  # one weight of a convolution in the middle, as a bit that flips does
        weight = next(p for name, p in tokenizer.named_parameters() if "mid" in name and p.ndim >= 4)
        weight.view(-1)[0] = 1e4
    assert golden_difference(tokenizer) > tolerance


def test_what_is_not_finite_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.self_check, "golden_difference", lambda _: float("nan"))
    with pytest.raises(WorkerUnfit, match=r"computes wrongly: the golden clip differs by nan, at most 0\.001"):
        SelfCheck(device="cpu", dtype="fp32")


def test_what_looks_wrong_is_looked_into_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check = SelfCheck(device="cpu", dtype="fp32")
    monkeypatch.setattr(pipeline.self_check, "golden_difference", lambda _: 0.1)
    check.if_due(is_suspect=False)
    with pytest.raises(WorkerUnfit):
        check.if_due(is_suspect=True)


@pytest.mark.parametrize(("dtype", "rounds"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_a_worker_looks_at_itself_in_its_own_arithmetic(
    dtype: str, rounds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that may round to TF32, as PyTorch has it by default, would look broken to an fp32 job."""
    seen: list[tuple[bool, bool]] = []
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not rounds

    def difference(_: object) -> float:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return 0.0

    monkeypatch.setattr(pipeline.self_check, "golden_difference", difference)
    config = job(small_input(tmp_path / "in"), tmp_path / "out", model={"dtype": dtype}, clips={"size": 16})
    ShardWorker(WorkOrder(config=config, description=make_plan(config).description)).close()
    assert seen == [(rounds, rounds)]


def test_values_that_are_not_finite_look_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that gives NaN would otherwise reject good videos until the next check."""
    real = ClipEncoder.begin

    def spoilt(self: ClipEncoder, clips: list[Clip]) -> Callable[[], list[EncodedClip]]:
        results = real(self, clips)
        return lambda: [EncodedClip(tokens_THW=np.full_like(encoded.tokens_THW, -1)) for encoded in results()]

    monkeypatch.setattr(ClipEncoder, "begin", spoilt)
    config = job(small_input(tmp_path / "in"), tmp_path / "out", clips={"fps": None, "size": 16})
    suspects: list[bool] = []
    monkeypatch.setattr(SelfCheck, "if_due", lambda self, is_suspect: suspects.append(is_suspect))
    run_job(config)
    assert suspects and all(suspects)


def small_input(folder: Path) -> Path:
    pack_tar(folder / "0.tar", [(f"v{number}.mp4", make_video(gradient_frames(20))) for number in range(4)])
    return folder


def test_a_worker_that_goes_wrong_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour later, in the middle of a shard."""
    config = job(small_input(tmp_path / "in"), tmp_path / "out", clips={"fps": None, "size": 16})
    checks: list[int] = []

    def difference(_: Any) -> float:
        checks.append(len(list((tmp_path / "out").glob("data/*"))))
        return 0.0 if len(checks) < 4 else 0.1

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.self_check, "golden_difference", difference)
        patch.setattr(pipeline.self_check, "_EVERY_SECONDS", 0.0)
        with pytest.raises(WorkerUnfit, match=r"computes wrongly"):
            run_job(config)
    assert checks == [0, 0, 1, 2] and len(list((tmp_path / "out").glob("data/*"))) == 2
    assert not list((tmp_path / "out").glob("_commits/*"))
    # A sound one goes on from there.
    assert not run_job(config).failures


@pytest.mark.parametrize("kind", ["inline", "ray"])
def test_a_worker_that_is_spoilt_from_the_start_writes_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(SPOILT)
    executor = {"kind": kind, "cpus_per_worker": 0.5, "num_workers": 2, "address": "local" if kind == "ray" else None}
    config = job(small_input(tmp_path / "in"), tmp_path / "out", clips={"fps": None, "size": 16}, executor=executor)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(tmp_path / "job.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1 and "computes wrongly: the golden clip differs by 0.01" in done.stderr, done.stderr
    for folder in ("data", "rejects", "_commits"):
        assert not list((tmp_path / "out").glob(f"{folder}/*"))
