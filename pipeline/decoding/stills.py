"""Pictures, still and animated, by Pillow: what FFmpeg does not read (animated WebP), or reads without their times."""

from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from pipeline.decoding.container import check_size, check_source
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import Pixels, over_black
from pipeline.errors import SampleError
from pipeline.records import SourceInfo

__all__ = ["is_picture", "picture_frames"]

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")
# What viewers make of a frame that says 0: they show it for a tenth of a second.
_UNSAID_SECONDS = 0.1
_ANIMATED = {"GIF", "PNG", "WEBP"}
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


def is_picture(beginning: bytes) -> bool:
    """Whether a file begins as a picture does (twelve bytes suffice)."""
    return beginning.startswith(_BEGINNINGS) or (beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP")


def picture_frames(file: IO[bytes], options: DecodeOptions) -> Iterator[tuple[float, float, SourceInfo, Pixels]]:
    """Each frame's time, its duration, what the file says, and its pixels over black; a still has one, of duration 0.

    Raises:
        SampleError: `unreadable`, `limit` or `filtered`.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limit below is the job's
    seconds, stage = 0.0, "probe"
    try:
        with Image.open(file, formats=_FORMATS) as image:
            check_size(*image.size, options)
            # Pages of a TIFF, and a camera's other pictures in one JPEG, are no moments of a video.
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
            if count > options.max_frames:
                raise SampleError("probe", "limit", f"{count:,} frames, at most {options.max_frames:,} are allowed")
            is_filtered = options.min_seconds is not None or options.longest_seconds is not None
            total = _seconds(image, count) if count > 1 and is_filtered else None
            for number in range(count):
                shown = _load(image, number)
                duration, stage = (shown if count > 1 else 0.0), "decode"
                if seconds > options.max_seconds:
                    raise SampleError(
                        "decode", "limit", f"a frame at {seconds:,.1f} s is beyond {options.max_seconds:,.1f} s"
                    )
                if number == 0:
                    fps = 1 / duration if duration else 0.0
                    source = SourceInfo(
                        width=image.width, height=image.height, fps=fps, codec=str(image.format).lower()
                    )
                    check_source(source, total, options)
                upright = ImageOps.exif_transpose(image) if count == 1 else image
                yield seconds, duration, source, over_black(np.asarray(_eight_bits(upright).convert("RGBA")))
                seconds += duration
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise SampleError(stage, "unreadable", f"a picture that cannot be read: {error}") from None


def _seconds(image: Image.Image, count: int) -> float:
    """For how long all frames together are shown."""
    total = 0.0
    for number in range(count):
        total += _load(image, number)
    return total


def _load(image: Image.Image, number: int) -> float:
    """Goes to a frame; the seconds for which it is shown."""
    image.seek(number)
    image.load()
    return image.info.get("duration", 0) / 1000 or _UNSAID_SECONDS


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, which Pillow clips to white; ValueError for numbers that have no range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, of which nothing says which value is white")
    return image
