"""The small models that the package carries, held against their card, against plain averaging, and one learned anew."""

import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.demo import CLIPS
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import frames_to_clips
from tests.support import ROOT
from vidtok_model import CARRIED, VideoTokenizer, carried_weights, load_tokenizer, random_tokenizer
from vidtok_model.metrics import psnr, ssim
from vidtok_model.training import Trainer, TrainingOptions

SIZE, FRAMES = 128, 17
ABOVE_AVERAGING = 3.0  # dB: the least that a model must be worth
CARD = ROOT / "vidtok_model" / "weights" / "README.md"


def clips_of(path: Path, *, size: int = SIZE, frames: int = FRAMES, fps: float | None = None) -> Iterator[torch.Tensor]:
    """The whole clips of a video's middle square, each (1, 3, frames, size, size)."""
    data = path.read_bytes()
    decoded = (
        frame.pixels_HWC for frame in decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=size, fps=fps))
    )
    while len(taken := list(islice(decoded, frames))) == frames:
        yield frames_to_clips(torch.from_numpy(np.stack(taken))[None])


def averaged(clip_BCTHW: torch.Tensor) -> torch.Tensor:
    """The clip averaged over what one latent stands for, and interpolated back."""
    front = clip_BCTHW[:, :, :1].expand(-1, -1, 3, -1, -1)  # as a causal model has it: the first frame alone
    longer = torch.cat([front, clip_BCTHW], dim=2)
    few = F.avg_pool3d(longer, (4, 8, 8))
    return F.interpolate(few, size=longer.shape[2:], mode="trilinear", align_corners=False)[:, :, 3:]


@torch.no_grad()
def round_trip(tokenizer: VideoTokenizer, clip_BCTHW: torch.Tensor) -> torch.Tensor:
    return tokenizer.decode(tokenizer.encode(clip_BCTHW).latents, clip_BCTHW.shape[2]).clamp(-1, 1)


@pytest.fixture(scope="module", params=CARRIED)
def tokenizer(request: pytest.FixtureRequest) -> VideoTokenizer:
    return load_tokenizer(request.param)


def test_they_are_small(tokenizer: VideoTokenizer) -> None:
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) <= 2_000_000
    assert carried_weights(tokenizer.config.name).stat().st_size < 5_000_000
    assert tokenizer.config == CARRIED[tokenizer.config.name]


def figures(tokenizer: VideoTokenizer, path: Path) -> dict[str, float]:
    """Means over the frames of a video's clips; printed as the card has them."""
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "averaging": []}
    for clip in clips_of(path):
        decoded = round_trip(tokenizer, clip)
        found["psnr"].append(psnr(clip, decoded).mean().item())
        found["ssim"].append(ssim(clip, decoded).mean().item())
        found["averaging"].append(psnr(clip, averaged(clip)).mean().item())
    means = {name: float(np.mean(values)) for name, values in found.items()}
    name = tokenizer.config.name
    print(f"| {name} | {path.stem} | {means['psnr']:.2f} | {means['ssim']:.3f} | {means['averaging']:.2f} |")
    return means


@pytest.mark.parametrize("clip", ["cityCC0.mpg", pytest.param("bigbuckbunny.mp4", marks=pytest.mark.slow)])
def test_carried_clips_are_as_the_card_says(tokenizer: VideoTokenizer, clip: str) -> None:
    """cityCC0 was never learned from."""
    check(tokenizer, CLIPS / clip)


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["carphone_pristine.mp4", "tree.avi", "bikes.mp4", "box.mp4", "world.mp4"])
def test_other_clips_are_as_the_card_says(tokenizer: VideoTokenizer, clip: str, shared_videos: Path) -> None:
    check(tokenizer, shared_videos / clip)


def check(tokenizer: VideoTokenizer, path: Path) -> None:
    """Against the card, and against averaging."""
    row = re.search(
        rf"^\| {tokenizer.config.name} \| {path.stem} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        CARD.read_text(),
        re.MULTILINE,
    )
    assert row is not None
    found = figures(tokenizer, path)
    assert list(found.values()) == pytest.approx([float(said) for said in row.groups()], abs=0.02)
    assert found["psnr"] >= found["averaging"] + ABOVE_AVERAGING


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [
        ("vidtok_tiny_fsq_causal_488_1073741824", 60, 24),
        *(pytest.param(name, 300, 30, marks=pytest.mark.slow) for name in CARRIED),
    ],
)
def test_one_real_clip_is_learned_by_heart(name: str, steps: int, least: float) -> None:
    """From random weights to 30 dB in 300 iterations; in short, to 24 dB in 60."""
    clip = next(clips_of(CLIPS / "bigbuckbunny.mp4", size=64, frames=5, fps=12))
    options = TrainingOptions(
        steps=steps,
        optimizer="muon",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=20,
        ema_decay=0.9,
        precision="fp32",
        fsq_weight=0,  # costly with so many codes
        adversarial=None,
    )
    trainer = Trainer(random_tokenizer(name, seed=0), options)
    for step in range(options.steps):
        trainer.iterate(clip, [step], step)
    assert psnr(clip, round_trip(trainer.average, clip)).mean() >= least
