"""Generated motion: textures that drift, turn and grow, for a model that has few real videos to learn from.

A video is 3 s of 128x128 pixels at 24 frames a second: a textured ground and, before it, textured discs and rectangles
on paths of their own, each hiding what is behind it. Textures are noise whose power falls with frequency as in
photographs (1/f), bars, and lattices of cells such as lit windows, between two random colours.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from pipeline.records import Frames

__all__ = ["FPS", "moving_textures"]

FPS = 24
_SIZE, _SECONDS = 128, 3
_TEXTURE_SIZE = 256
_MOST_SHAPES = 10

Floats = npt.NDArray[np.float64]


def moving_textures(seed: int) -> Frames:
    """One video, uint8 (72, 128, 128, 3); equal seeds give equal ones."""
    draw = np.random.default_rng(seed)
    at = np.linspace(0, 1, _SECONDS * FPS)
    frames_TCHW = _moved(_texture(draw), at, draw)
    for _ in range(draw.integers(2, _MOST_SHAPES, endpoint=True)):
        shape_TCHW, opacity_THW = _moved(_texture(draw), at, draw), _shape(at, draw)
        frames_TCHW = torch.lerp(frames_TCHW, shape_TCHW, opacity_THW[:, None])
    pixels: Frames = (frames_TCHW * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def _texture(draw: np.random.Generator) -> torch.Tensor:
    """Two colours and what lies between them, by a pattern: (3, H, W) in [0, 1]."""
    pattern = (_noise, _bars, _cells)[draw.choice(3, p=[0.6, 0.1, 0.3])]
    mix = pattern(draw) + draw.uniform(0, 0.15) * _noise(draw)
    first, second = (_colour(draw) for _ in range(2))
    colours = first + (second - first) * mix + draw.uniform(0, 0.08) * np.stack([_noise(draw) for _ in range(3)])
    return torch.from_numpy(colours.clip(0, 1).astype(np.float32))


def _colour(draw: np.random.Generator) -> Floats:
    """Mostly grey, sometimes vivid; (3, 1, 1)."""
    return np.asarray(draw.uniform(0, 1) + draw.exponential(0.12) * draw.standard_normal((3, 1, 1)))


def _noise(draw: np.random.Generator) -> Floats:
    """Around 0.5, (H, W)."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_TEXTURE_SIZE), np.fft.fftfreq(_TEXTURE_SIZE)))
    frequency[0, 0] = np.inf
    falls = frequency ** -draw.uniform(0.8, 2)
    plane = np.fft.ifft2(np.fft.fft2(draw.standard_normal((_TEXTURE_SIZE, _TEXTURE_SIZE))) * falls).real
    return np.asarray(0.5 + 0.25 * plane / plane.std())


def _bars(draw: np.random.Generator) -> Floats:
    """0 and 1 in turns, soft at their edges, (H, W)."""
    y, x = np.mgrid[:_TEXTURE_SIZE, :_TEXTURE_SIZE]
    angle, period, sharpness = draw.uniform(0, math.pi), math.exp(draw.uniform(1.8, 4)), draw.uniform(1, 6)
    wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period)
    return np.asarray((0.5 + sharpness * wave).clip(0, 1))


def _cells(draw: np.random.Generator) -> Floats:
    """Cells of random brightness, some with gaps between them, (H, W)."""
    height, width = (int(math.exp(draw.uniform(1.2, 3.3))) for _ in range(2))
    rows, columns = -(-_TEXTURE_SIZE // height), -(-_TEXTURE_SIZE // width)
    brightness = draw.uniform(0, 1, (rows, columns)) ** draw.uniform(0.3, 3)
    plane = np.kron(brightness, np.ones((height, width)))[:_TEXTURE_SIZE, :_TEXTURE_SIZE]
    y, x = np.mgrid[:_TEXTURE_SIZE, :_TEXTURE_SIZE]
    gap = draw.integers(0, max(1, min(height, width) // 2))
    return np.asarray(np.where((y % height < gap) | (x % width < gap), 0.0, plane))


def _moved(texture_CHW: torch.Tensor, at: Floats, draw: np.random.Generator) -> torch.Tensor:
    """The texture seen by a camera on a smooth path: (T, 3, H, W)."""
    angle, turn, grow = draw.uniform(-math.pi, math.pi), draw.uniform(-0.6, 0.6), draw.uniform(-0.3, 0.3)
    start, shift = draw.uniform(-0.3, 0.3, 2), draw.uniform(-0.3, 0.3, 2)
    matrices = []
    for moment in at:
        turned, scale = angle + turn * moment, 0.5 * math.exp(grow * moment)
        dx, dy = start + shift * math.sin(2 * math.pi * moment)
        cosine, sine = scale * math.cos(turned), scale * math.sin(turned)
        matrices.append([[cosine, -sine, dx], [sine, cosine, dy]])
    grid = F.affine_grid(torch.tensor(matrices, dtype=torch.float32), [len(at), 3, _SIZE, _SIZE], align_corners=False)
    textures = texture_CHW.expand(len(at), -1, -1, -1)
    return F.grid_sample(textures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _shape(at: Floats, draw: np.random.Generator) -> torch.Tensor:
    """The opacity of a disc or a rectangle on a straight path, turning: (T, H, W)."""
    across = torch.linspace(-1, 1, _SIZE)
    y, x = torch.meshgrid(across, across, indexing="ij")
    center = draw.uniform(-1, 1, 2) + np.outer(at - 0.5, draw.uniform(-1, 1, 2) * draw.uniform(0, 1))
    angle = draw.uniform(-math.pi, math.pi) + at * draw.uniform(-1, 1)
    is_disc, (height, width) = draw.random() < 0.4, draw.uniform(0.1, 0.7, 2)
    opacities = []
    for (cx, cy), turned in zip(center, angle, strict=True):
        across_shape = (x - cx) * math.cos(turned) + (y - cy) * math.sin(turned)
        along_shape = (y - cy) * math.cos(turned) - (x - cx) * math.sin(turned)
        if is_disc:
            inside = height - torch.hypot(across_shape, along_shape)
        else:
            inside = torch.minimum(width - across_shape.abs(), height - along_shape.abs())
        # An edge two pixels wide, as a lens makes it.
        opacities.append((inside * _SIZE / 4 + 0.5).clamp(0, 1))
    return torch.stack(opacities)
