"""Generated motion: videos of textures that drift, turn and grow, for a model that has few real ones to learn from.

    python -m jobs.motion FOLDER --count 48

Each is 3 s of 128x128 pixels at 24 frames a second: a textured ground and three textured discs on paths of their own.
Textures are noise whose power falls with frequency as in photographs (1/f), in random colours.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from pipeline.records import Frames
from pipeline.video_file import VideoWriter

__all__ = ["moving_textures"]

_SIZE, _SECONDS, _FPS = 128, 3, 24
_TEXTURE_SIZE = 256
_DISCS = 3


def moving_textures(seed: int) -> Frames:
    """One video, uint8 (72, 128, 128, 3); equal seeds give equal ones."""
    draw = np.random.default_rng(seed)
    at = np.linspace(0, 1, _SECONDS * _FPS)
    frames_TCHW = _moved(_texture(draw), at, draw, spread=0.3)
    across = torch.linspace(-1, 1, _SIZE)
    y, x = torch.meshgrid(across, across, indexing="ij")
    for _ in range(_DISCS):
        disc_TCHW = _moved(_texture(draw), at, draw, spread=0.3)
        center = draw.uniform(-0.8, 0.8, 2) + np.outer(at, draw.uniform(-1.2, 1.2, 2))
        radius = float(draw.uniform(0.15, 0.5))
        distance_THW = torch.stack([((x - cx) ** 2 + (y - cy) ** 2).sqrt() for cx, cy in center])
        # An edge two pixels wide, as a lens makes it.
        opacity_THW = ((radius - distance_THW) * _SIZE / 4 + 0.5).clamp(0, 1)
        frames_TCHW = torch.lerp(frames_TCHW, disc_TCHW, opacity_THW[:, None])
    pixels: Frames = (frames_TCHW * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def _texture(draw: np.random.Generator) -> torch.Tensor:
    """Noise (3, H, W) in [0, 1]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_TEXTURE_SIZE), np.fft.fftfreq(_TEXTURE_SIZE)))
    frequency[0, 0] = np.inf
    falls = frequency ** -draw.uniform(0.9, 1.8)
    white = draw.standard_normal((3, _TEXTURE_SIZE, _TEXTURE_SIZE))
    planes = np.fft.ifft2(np.fft.fft2(white) * falls).real
    planes /= planes.std()
    # Colours go together in part.
    mixed = 0.7 * planes[:1] + 0.5 * planes
    colours = draw.uniform(0.2, 0.8, (3, 1, 1)) + draw.uniform(0.08, 0.25) * mixed
    return torch.from_numpy(colours.clip(0, 1).astype(np.float32))


def _moved(
    texture_CHW: torch.Tensor, at: npt.NDArray[np.float64], draw: np.random.Generator, *, spread: float
) -> torch.Tensor:
    """The texture seen by a camera on a smooth path: (T, 3, H, W)."""
    turn, grow = draw.uniform(-0.6, 0.6), draw.uniform(-0.3, 0.3)
    shift = draw.uniform(-spread, spread, (2, 2))
    matrices = []
    for moment in at:
        angle, scale = turn * moment, 0.5 * math.exp(grow * moment)
        dx, dy = shift[0] + shift[1] * math.sin(2 * math.pi * moment)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        matrices.append([[cosine, -sine, dx], [sine, cosine, dy]])
    grid = F.affine_grid(torch.tensor(matrices, dtype=torch.float32), [len(at), 3, _SIZE, _SIZE], align_corners=False)
    textures = texture_CHW.expand(len(at), -1, -1, -1)
    return F.grid_sample(textures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def main() -> None:
    """Writes videos."""
    parser = argparse.ArgumentParser(description="Videos of generated motion.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=48)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        with VideoWriter(arguments.folder / f"motion{number:04d}.mp4") as writer:
            for index, pixels_HWC in enumerate(moving_textures(number)):
                writer.write(pixels_HWC, index / _FPS)


if __name__ == "__main__":
    main()
