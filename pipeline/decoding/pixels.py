"""From a decoded frame to what is kept of it: upright, square pixels, RGB, resized and cropped."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache
from typing import cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from pipeline.decoding.container import said
from pipeline.decoding.direct import DirectConverter
from pipeline.decoding.hdr import TRANSFERS, tone_mapped
from pipeline.decoding.options import DecodeOptions
from pipeline.errors import SampleError

__all__ = ["Geometry", "Room", "fit", "frame_pixels", "over_black", "turned_matrix"]

Pixels = npt.NDArray[np.uint8]
# Memory for a frame of a shape.
Room = Callable[[tuple[int, int, int]], Pixels]

_UPRIGHT = (1, 0, 0, 1)

# ITU-T H.273: matrix coefficients that are named, and those to assume for frames of which nothing is said.
_UNSPECIFIED, _RESERVED, _BT709, _BT601 = 2, 3, 1, 5
# As players do: what is larger than standard definition is high definition.
_SD_WIDTH, _SD_HEIGHT = 1024, 576


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a video's pixels are shown.

    Attributes:
        aspect: width of one stored pixel divided by its height.
        turn: a 2x2 matrix of 0, 1 and -1: stored axes (x right, y down) to shown ones.
        converter: FFmpeg's; a frame of its own would set one up anew.
        direct: the same, for frames that are kept as they are.
    """

    aspect: Fraction = Fraction(1)
    turn: tuple[int, int, int, int] = _UPRIGHT
    converter: VideoReformatter = field(default_factory=VideoReformatter, compare=False, repr=False)
    direct: DirectConverter = field(default_factory=DirectConverter, compare=False, repr=False)


def turned_matrix(data: bytes) -> tuple[int, int, int, int]:
    """The nearest turn or flip to a display matrix as containers hold it (nine int32, the first five matter here)."""
    a, b, _, c, d = (int(value) for value in np.frombuffer(data[:20], np.int32))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def frame_pixels(frame: VideoFrame, options: DecodeOptions, geometry: Geometry, room: Room) -> Pixels:
    """RGB pixels (H, W, 3) of one frame as the job asks for them.

    Args:
        frame: as decoded.
        options: size and crop.
        geometry: how its pixels are shown.
        room: gives memory for frames that need no more than a conversion.

    Raises:
        SampleError: FFmpeg has no RGB form of it.
    """
    _assume_colours(frame)
    if _is_kept_whole(frame, options, geometry) and geometry.direct.takes(frame):
        out = room((frame.height, frame.width, 3))
        geometry.direct.convert(frame, out)
        return out
    return _turn(fit(_rgb(frame, geometry.converter), options, aspect=geometry.aspect), geometry.turn)


def _assume_colours(frame: VideoFrame) -> None:
    if frame.colorspace in (_UNSPECIFIED, _RESERVED):
        is_large = frame.width >= _SD_WIDTH or frame.height > _SD_HEIGHT
        frame.colorspace = _BT709 if is_large else _BT601


def _is_kept_whole(frame: VideoFrame, options: DecodeOptions, geometry: Geometry) -> bool:
    if frame.color_trc in TRANSFERS or geometry.turn != _UPRIGHT:
        return False
    if options.size is None:
        return True
    size = (frame.height, frame.width)
    ratio = geometry.aspect.as_integer_ratio()
    scaled, _, kept = _layout(*size, ratio, options.size, options.crop, options.factor, options.max_pixels)
    return size == scaled == kept and (options.crop != "pad" or size == (options.size, options.size))


def _rgb(frame: VideoFrame, converter: VideoReformatter) -> Pixels:
    is_hdr = frame.color_trc in TRANSFERS
    has_alpha = not is_hdr and _has_alpha(frame.format.name)
    # Planes: FFmpeg 8 leaves columns at the right unwritten where it makes rgba or rgb48 of 4:2:0 of some widths.
    form = "gbrp16le" if is_hdr else "gbrap" if has_alpha else "rgb24"
    try:
        # One thread: by default FFmpeg starts as many as there are cores, for each frame anew. The array is a view.
        pixels_HWC = converter.reformat(frame, format=form, threads=1).to_ndarray()
    except (av.error.FFmpegError, ValueError) as error:
        raise SampleError(
            "decode",
            "unreadable",
            f"a {frame.width}x{frame.height} {frame.format.name} frame has no RGB form: {said(error)}",
        ) from None
    if is_hdr:
        return tone_mapped(cast("npt.NDArray[np.uint16]", pixels_HWC), int(frame.color_trc))
    return over_black(cast(Pixels, pixels_HWC)) if has_alpha else cast(Pixels, pixels_HWC)


@cache
def _has_alpha(pix_fmt: str) -> bool:
    return any(component.is_alpha for component in VideoFormat(pix_fmt).components)


def over_black(pixels_HWC: Pixels) -> Pixels:
    """RGBA over black: each colour times its alpha, rounded."""
    colours, alpha = pixels_HWC[..., :3].astype(np.uint16), pixels_HWC[..., 3:].astype(np.uint16)
    return ((colours * alpha + 127) // 255).astype(np.uint8)


def fit(pixels_HWC: Pixels, options: DecodeOptions, *, aspect: Fraction = Fraction(1)) -> Pixels:
    """Resizes (bilinear, antialiased) and crops or pads; only the part that is kept is computed.

    With `center`, the shorter side becomes `size` and the larger one int(size * larger / shorter); the middle square
    begins at round((larger - size) / 2), as in the published preprocessing. `keep` does the same, and crops both sides
    to multiples of `factor`. With `pad`, the larger side becomes `size`, and the rest is black.

    Args:
        pixels_HWC: uint8 RGB, as stored.
        options: `size`, `crop` and `factor`; without a size, nothing is done.
        aspect: width of one stored pixel divided by its height.
    """
    if options.size is None:
        return pixels_HWC
    height, width, _ = pixels_HWC.shape
    ratio = aspect.as_integer_ratio()  # a fraction's hash would take as long as all the rest
    scaled, begin, kept = _layout(height, width, ratio, options.size, options.crop, options.factor, options.max_pixels)
    inner = _resized(pixels_HWC, scaled, begin, kept)
    if options.crop != "pad":
        return inner
    canvas = np.zeros((options.size, options.size, 3), np.uint8)
    top, left = (options.size - kept[0]) // 2, (options.size - kept[1]) // 2
    canvas[top : top + kept[0], left : left + kept[1]] = inner
    return canvas


_Size = tuple[int, int]


@lru_cache(maxsize=16)
def _layout(
    stored_height: int, stored_width: int, aspect: tuple[int, int], size: int, crop: str, factor: int, max_pixels: int
) -> tuple[_Size, _Size, _Size]:
    """The size to resize to, and where in that the part that is kept begins, and its size: (height, width) each."""
    height, width = Fraction(stored_height), stored_width * Fraction(*aspect)
    if crop == "pad":
        longer = max(height, width)
        inner = (max(1, round(size * height / longer)), max(1, round(size * width / longer)))
        return inner, (0, 0), inner
    shorter = min(height, width)
    scaled = (int(size * height / shorter), int(size * width / shorter))
    kept = (scaled[0] // factor * factor, scaled[1] // factor * factor) if crop == "keep" else (size, size)
    if kept[0] * kept[1] > max_pixels:
        message = (
            f"{stored_width} x {stored_height} pixels become {kept[1]} x {kept[0]}, at most {max_pixels:,} are allowed"
        )
        raise SampleError("decode", "limit", message)
    return scaled, (round((scaled[0] - kept[0]) / 2), round((scaled[1] - kept[1]) / 2)), kept


def _resized(pixels_HWC: Pixels, scaled: tuple[int, int], begin: tuple[int, int], kept: tuple[int, int]) -> Pixels:
    """The part of `kept` pixels from `begin` on of the image resized to `scaled`."""
    if scaled == pixels_HWC.shape[:2]:
        return pixels_HWC[begin[0] : begin[0] + kept[0], begin[1] : begin[1] + kept[1]]
    down, across = (stored / whole for stored, whole in zip(pixels_HWC.shape[:2], scaled, strict=True))
    box = (begin[1] * across, begin[0] * down, (begin[1] + kept[1]) * across, (begin[0] + kept[0]) * down)
    image = Image.fromarray(pixels_HWC).resize((kept[1], kept[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def _turn(pixels_HWC: Pixels, turn: tuple[int, int, int, int]) -> Pixels:
    """Shown x = a * stored x + c * stored y; shown y = b * stored x + d * stored y."""
    a, b, c, d = turn
    if b or c:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    flip_down, flip_across = (b or d) < 0, (a or c) < 0
    return pixels_HWC[:: -1 if flip_down else 1, :: -1 if flip_across else 1]
