"""A small diffusion model on the demonstration's videos, as latents, which then makes a clip from noise.

    make demo && python -m jobs.examples.diffusion build/demo      # minutes on two cores; build/demo/diffusion.mp4

The shards of the demonstration are tokenized once more, by the small KL model. The transformer learns the velocity from
noise to latents, given the first latent frame; Euler steps from noise then make the rest. (Flow matching, arXiv
2210.02747: x_t = (1 - t) noise + t latents, velocity = latents - noise.)

Legend of shapes: B clips, C channels, T latent frames, H and W rows and columns, N patches, D features.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.examples.clips import write_clip
from jobs.examples.fitting import fit
from jobs.examples.transformer import Transformer
from pipeline import LatentStream, TokenLoader
from pipeline.job import run_job
from pipeline.job_file import load_job

__all__ = ["Result", "VelocityModel", "main", "tokenize", "train"]

_WIDTH, _LAYERS, _HEADS, _PATCH = 192, 4, 6, 2
_EULER_STEPS = 50


@dataclass(frozen=True)
class Result:
    """What came of a training.

    Attributes:
        losses: mean squared error of the velocity, of each step.
        latents_CTHW: the clip that was made, as the tokenizer decodes it.
        original_CTHW: that whose first latent frame it was given.
    """

    losses: list[float]
    latents_CTHW: Tensor
    original_CTHW: Tensor


class VelocityModel(nn.Module):
    """Where noisy latents go, at a time between 0 (noise) and 1 (latents)."""

    def __init__(self, shape_CTHW: tuple[int, ...]) -> None:
        super().__init__()
        channels, frames, height, width = shape_CTHW
        self.grid = (frames, height // _PATCH, width // _PATCH)
        inside = channels * _PATCH**2
        self.read = nn.Linear(2 * inside + 1, _WIDTH)  # latents, the first frame where it is given, and whether it is
        self.write = nn.Linear(_WIDTH, inside)
        self.places = nn.Parameter(torch.randn(math.prod(self.grid), _WIDTH) * 0.02)
        self.time = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
        self.transformer = Transformer(width=_WIDTH, layers=_LAYERS, heads=_HEADS, is_causal=False)
        nn.init.zeros_(self.write.weight)

    def forward(self, noisy_BCTHW: Tensor, time_B: Tensor, first_BC1HW: Tensor) -> Tensor:
        """The velocity, (B, C, T, H, W)."""
        given = F.pad(first_BC1HW, (0, 0, 0, 0, 0, noisy_BCTHW.shape[2] - 1))
        patches_BNX = torch.cat([self._patches(noisy_BCTHW), self._patches(given)], dim=-1)
        is_given = torch.zeros(*patches_BNX.shape[:2], 1)
        is_given[:, : self.grid[1] * self.grid[2]] = 1
        x_BND = self.read(torch.cat([patches_BNX, is_given], dim=-1)) + self.places
        x_BND = self.transformer(x_BND + self.time(_waves(time_B))[:, None])
        return self._pixels(self.write(x_BND), noisy_BCTHW.shape[1])

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Mean squared error of the velocity at a random time of each clip."""
        latents = batch["latents"]
        time_B, noise = torch.rand(len(latents)), torch.randn_like(latents)
        weight = time_B[:, None, None, None, None]
        velocity = self((1 - weight) * noise + weight * latents, time_B, batch["first_latents"])
        return F.mse_loss(velocity, latents - noise)

    def _patches(self, x_BCTHW: Tensor) -> Tensor:
        frames, rows, columns = self.grid
        split = x_BCTHW.reshape(*x_BCTHW.shape[:2], frames, rows, _PATCH, columns, _PATCH)
        return split.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)

    def _pixels(self, x_BNX: Tensor, channels: int) -> Tensor:
        split = x_BNX.reshape(len(x_BNX), *self.grid, channels, _PATCH, _PATCH)  # B, T, h, w, C, p, q
        return split.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    @torch.inference_mode()
    def make(self, first_C1HW: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (C, T, H, W) from noise, whose first frame is the one that is given."""
        shape = (1, len(first_C1HW), self.grid[0], self.grid[1] * _PATCH, self.grid[2] * _PATCH)
        x_BCTHW = torch.randn(shape, generator=generator)
        for step in range(_EULER_STEPS):
            time_B = torch.full((1,), step / _EULER_STEPS)
            x_BCTHW = x_BCTHW + self(x_BCTHW, time_B, first_C1HW[None]) / _EULER_STEPS
        x_BCTHW[:, :, :1] = first_C1HW
        return x_BCTHW[0]


def _waves(time_B: Tensor) -> Tensor:
    """Sines and cosines of a time, (B, D), as transformers take positions (arXiv 1706.03762)."""
    rates = 1000 * torch.exp(-math.log(1e4) * torch.arange(_WIDTH // 2) / (_WIDTH // 2))
    angles = time_B[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def tokenize(folder: Path) -> Path:
    """The demonstration's shards as latents of the small KL model, with their log-variance."""
    target = folder / "latents"
    job = load_job(
        folder / "job.yaml",
        [
            "model.name=vidtok_tiny_kl_causal_488_16chn",
            f"output={target}",
            "rows.logvar=true",
            "executor.kind=inline",
        ],
    )
    run_job(job)
    return target


def train(dataset: Path, *, steps: int, seed: int = 0) -> Result:
    """Trains on samples of all clips of a dataset of latents of one shape; makes a clip from a first latent frame."""
    torch.manual_seed(seed)
    stream = LatentStream(dataset, batch_size=2, sample=True, first_frame=True, seed=seed, drop_last=True)
    loader = TokenLoader(stream)
    original = LatentStream(dataset, batch_size=1, shuffle=False, first_frame=True)[0]
    model = VelocityModel(tuple(original["latents"].shape[1:]))
    losses = fit(model, map(model.loss, _endless(loader)), steps=steps, unit="mean squared error")
    made = model.make(original["first_latents"][0], torch.Generator().manual_seed(seed))
    restored, first = (stream.normalization.restored(one)[0] for one in (made[None], original["latents"]))
    return Result(losses, restored, first)


def _endless(loader: TokenLoader) -> Iterator[dict[str, Any]]:
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def main() -> None:
    """Tokenizes, trains, makes a clip and writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the demonstration's, as `make demo` leaves it")
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    dataset = tokenize(options.folder)
    result = train(dataset, steps=options.steps)
    target = options.folder / "diffusion.mp4"
    count = write_clip(dataset, result.latents_CTHW, target)
    sys.stdout.write(f"{count} frames in {target}\n")


if __name__ == "__main__":
    main()
