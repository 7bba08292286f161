"""The two examples learn what the demonstration tokenized, and make videos of it."""

import math
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
import yaml

from jobs.demo import job_of, pack_clips
from jobs.examples import diffusion, gpt
from jobs.examples.clips import write_clip
from pipeline.job import run_job
from pipeline.job_file import load_job
from tests.support import ROOT
from vidtok_model import get_config

pytestmark = pytest.mark.slow

LEVELS = get_config("vidtok_tiny_fsq_causal_488_1073741824").fsq_levels


def digits_of(tokens: torch.Tensor) -> torch.Tensor:
    """(N, 10)."""
    digits, left = [], tokens.flatten().long()
    for level in LEVELS:
        digits.append(left % level)
        left = left // level
    return torch.stack(digits, dim=1)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, its dataset made in one process."""
    folder = tmp_path_factory.mktemp("demo")
    pack_clips(folder / "shards")
    (folder / "job.yaml").write_text(yaml.safe_dump(job_of(folder)))
    run_job(load_job(folder / "job.yaml", ["executor.kind=inline"]))
    return folder


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_gpt(demonstration: Path) -> None:
    result = gpt.train(demonstration / "dataset", steps=400)
    last, uniform = sum(result.losses[-20:]) / 20, sum(map(math.log, LEVELS)) / len(LEVELS)
    assert last < 0.8 * uniform, (last, uniform)
    assert result.tokens_THW.shape == result.original_THW.shape
    assert torch.equal(result.tokens_THW[0], result.original_THW[0]), "it begins with what it was given"
    made, original = (digits_of(tokens[1:]) for tokens in (result.tokens_THW, result.original_THW))
    commonest = sum((original[:, digit].bincount().max() for digit in range(10)), torch.tensor(0)) / original.numel()
    print(f"digits equal {(made == original).float().mean():.3f}, by the commonest of each {commonest:.3f}")
    assert (made == original).float().mean() > 1 / 5, "more than by chance, one of eight"
    assert write_clip(demonstration / "dataset", result.tokens_THW, demonstration / "gpt.mp4") == 17
    assert frames_of(demonstration / "gpt.mp4") == 17


def test_diffusion(demonstration: Path) -> None:
    dataset = diffusion.tokenize(demonstration)
    result = diffusion.train(dataset, steps=800)
    first, last = (sum(some) / 20 for some in (result.losses[:20], result.losses[-20:]))
    assert last < 0.5 * first, (first, last)
    error, spread = (
        (one - result.original_CTHW).square().mean() for one in (result.latents_CTHW, result.latents_CTHW.mean())
    )
    assert error < spread, "closer to the clip whose first frame it was given than a constant"
    assert write_clip(dataset, result.latents_CTHW, demonstration / "diffusion.mp4") == 17
    assert frames_of(demonstration / "diffusion.mp4") == 17


@pytest.mark.parametrize("example", ["gpt", "diffusion"])
def test_the_programs(demonstration: Path, example: str) -> None:
    command = [sys.executable, "-m", f"jobs.examples.{example}", str(demonstration), "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), check=True)
    assert f"17 frames in {demonstration / example}.mp4" in done.stdout
    assert frames_of(demonstration / f"{example}.mp4") == 17
