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
CARD = ROOT / "vidtok_model" / "weights" / "README.md"
# The floor of every clip: what a clip averaged over 8x8 pixels and 4 frames and interpolated back has, and 3 dB.
ABOVE_AVERAGING = 3.0


def clips_of(
    path: Path, *, every: int = 1, size: int = SIZE, frames: int = FRAMES, fps: float | None = None
) -> Iterator[torch.Tensor]:
    """Every n-th clip of a video's middle square, (1, 3, frames, size, size)."""
    data = path.read_bytes()
    decoded = (
        frame.pixels_HWC for frame in decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=size, fps=fps))
    )
    number = 0
    while len(taken := list(islice(decoded, frames))) == frames:
        if number % every == 0:
            yield frames_to_clips(torch.from_numpy(np.stack(taken))[None], torch.float32)
        number += 1


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


def test_the_card_says_what_they_do_on_a_clip_they_never_saw(tokenizer: VideoTokenizer) -> None:
    clips = list(clips_of(CLIPS / "cityCC0.mpg"))
    pairs = [(clip, round_trip(tokenizer, clip)) for clip in clips]
    row = re.search(
        rf"^\| {tokenizer.config.name} \| cityCC0 \| ([\d.]+) \| ([\d.]+) \|", CARD.read_text(), re.MULTILINE
    )
    assert row is not None
    for metric, said in zip((psnr, ssim), row.groups(), strict=True):
        found = float(np.mean([metric(*pair).mean() for pair in pairs]))
        assert found == pytest.approx(float(said), rel=2e-3)


@pytest.mark.parametrize("name", ["cityCC0.mpg", "bigbuckbunny.mp4"])
def test_they_beat_averaging(tokenizer: VideoTokenizer, name: str) -> None:
    check_floor(tokenizer, CLIPS / name)


def test_they_beat_averaging_on_other_clips(tokenizer: VideoTokenizer, shared_videos: Path) -> None:
    paths = sorted(path for path in shared_videos.iterdir() if path.suffix != ".md")
    assert len(paths) == 9
    for path in paths:
        check_floor(tokenizer, path)


def check_floor(tokenizer: VideoTokenizer, path: Path) -> None:
    gains = [
        (psnr(clip, round_trip(tokenizer, clip)).mean() - psnr(clip, averaged(clip)).mean()).item()
        for clip in clips_of(path, every=3)
    ]
    assert len(gains) > 0 and np.mean(gains) >= ABOVE_AVERAGING, (path.name, gains)


@pytest.mark.parametrize("name", CARRIED)
def test_one_real_clip_is_learned_by_heart(name: str) -> None:
    """From random weights to 30 dB in 200 iterations."""
    clip = next(clips_of(CLIPS / "bigbuckbunny.mp4", size=64, frames=5, fps=12))
    options = TrainingOptions(
        steps=200,
        optimizer="muon",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=20,
        ema_decay=0.9,
        adversarial=None,
    )
    trainer = Trainer(random_tokenizer(name, seed=0), options)
    for step in range(options.steps):
        trainer.iterate(clip, [step], step)
    assert psnr(clip, round_trip(trainer.average, clip)).mean() >= 30
