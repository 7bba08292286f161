"""What the small carried models learn from: pieces of a few real videos, changed in many ways, and generated motion.

    python -m jobs.tiny_set FOLDER VIDEO...

A real video gives six pieces of 2 s, spread over it. Each is written as it is, its shorter side 128 pixels,
and in variants: of random size, colours, contrast and brightness, some of them upside down or backwards. A video that
is named more than once gets as many times the share of the set.
"""

import argparse
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from jobs.motion import FPS, moving_textures
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.records import Frames
from pipeline.video_file import VideoWriter

_PIECES, _PIECE_SECONDS, _FRAMES_A_SECOND = 6, 2, 12
_SMALLEST, _LARGEST = 128, 256
TEXTURE = "texture"
"""How the names of generated videos begin."""


def pieces(data: bytes, size: int) -> list[Frames]:
    """Pieces of one video's frames, uint8 (T, H, W, 3), their shorter side `size` pixels."""
    options = DecodeOptions(fps=_FRAMES_A_SECOND, size=size, crop="keep", factor=2)
    decoded = [frame.pixels_HWC for frame in decode_frames(io.BytesIO(data), len(data), options)]
    # A video of fewer frames a second repeats them; a model would learn that nothing moves.
    frames = np.stack(decoded[:1] + [after for before, after in pairwise(decoded) if (after != before).any()])
    length = _PIECE_SECONDS * _FRAMES_A_SECOND
    starts = np.linspace(0, max(0, len(frames) - length), _PIECES)
    return [frames[start : start + length] for start in starts.round().astype(int)]


def varied(frames_THWC: Frames, draw: np.random.Generator) -> Frames:
    """The frames in other colours, perhaps upside down, perhaps backwards."""
    values = frames_THWC.astype(np.float32) / 255
    # Channels mix a little, and in every third video change places; brightness and contrast move around the middle.
    order = draw.permutation(3) if draw.random() < 1 / 3 else np.arange(3)
    mixing = np.eye(3)[order] + draw.uniform(-0.2, 0.2, (3, 3))
    mixing /= mixing.sum(axis=1, keepdims=True)
    values = (values @ mixing.astype(np.float32).T - 0.5) * draw.uniform(0.6, 1.5) + 0.5 + draw.uniform(-0.15, 0.15)
    if draw.integers(2):
        values = values[:, ::-1]
    if draw.integers(2):
        values = values[::-1]
    changed: Frames = (values * 255).round().clip(0, 255).astype(np.uint8)
    return changed


def real_videos(paths: list[Path], variants: int) -> Iterator[tuple[str, Frames, float]]:
    """Yields names, frames and frames a second."""
    for number, path in enumerate(paths):
        draw = np.random.default_rng([1, number])
        for variant in range(variants + 1):
            size = int(draw.integers(_SMALLEST // 2, _LARGEST // 2, endpoint=True)) * 2 if variant else _SMALLEST
            for place, frames in enumerate(pieces(path.read_bytes(), size)):
                shown = varied(frames, draw) if variant else frames
                yield f"{path.stem}-{number}-{variant}-{place}", shown, _FRAMES_A_SECOND


def main() -> None:
    """Writes videos."""
    parser = argparse.ArgumentParser(description="The training set of the small carried models.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("videos", type=Path, nargs="*")
    parser.add_argument("--variants", type=int, default=6)
    parser.add_argument("--textures", type=int, default=96)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    textures = ((f"{TEXTURE}-{seed}", moving_textures(seed), float(FPS)) for seed in range(arguments.textures))
    for videos in (real_videos(arguments.videos, arguments.variants), textures):
        for name, frames_THWC, fps in videos:
            with VideoWriter(arguments.folder / f"{name}.mp4") as writer:
                for index, frame_HWC in enumerate(frames_THWC):
                    writer.write(frame_HWC, index / fps)


if __name__ == "__main__":
    main()
