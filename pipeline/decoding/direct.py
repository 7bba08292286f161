"""From a decoded frame to RGB in memory that is there already: PyAV's converter only makes frames of its own.

FFmpeg's swscale, which PyAV brings along, is called by its C interface (swscale.h). That spares a copy of each frame
that keeps its size, up to a fifth of the time of a large one. Where it is not found, or does not give what PyAV gives,
frames are copied.
"""

import ctypes
import itertools
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

__all__ = ["ROOM_BEHIND_BYTES", "DirectConverter"]

_BILINEAR = 2  # SWS_BILINEAR, PyAV's default
_ONE = 1 << 16  # contrast and saturation as they are
_FULL = 2  # AVCOL_RANGE_JPEG
# What nearly all videos are in.
_FORMATS = {"yuv420p", "yuvj420p"}
_MATRICES = (1, 4, 5, 6, 7, 9)  # BT.709, FCC, BT.601 (two names), SMPTE 240M, BT.2020
# Swscale works on so many pixels at once, in twos or fours, and writes the others of the last ones beyond a row's end.
_PIXELS_AT_ONCE = 8
# What is free to be written behind a frame. The rows come in their order, so each mends what the one before spoilt.
ROOM_BEHIND_BYTES = 3 * _PIXELS_AT_ONCE * 4
_Pointers, _Strides = ctypes.c_void_p * 4, ctypes.c_int * 4


class DirectConverter:
    """Converts the frames of one video."""

    def __init__(self) -> None:
        self._context: int | None = None
        self._form: tuple[Any, ...] = ()

    def __del__(self) -> None:
        """Gives back what swscale holds."""
        if self._context is not None and (library := _library()) is not None:
            library.sws_freeContext(self._context)

    @staticmethod
    def takes(frame: VideoFrame) -> bool:
        """Whether a frame can be converted so."""
        is_of_ours = frame.format.name in _FORMATS and int(frame.colorspace) in _MATRICES
        return is_of_ours and frame.width % _PIXELS_AT_ONCE == 0 and _is_trusted()

    def convert(self, frame: VideoFrame, out_HWC: npt.NDArray[np.uint8]) -> None:
        """Writes the frame's RGB pixels.

        Args:
            frame: one that it takes.
            out_HWC: (height, width, 3), contiguous; up to ROOM_BEHIND_BYTES behind it are spoilt.
        """
        library = _library()
        assert library is not None, "takes() is false then"
        form = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if form != self._form:
            self._context, self._form = _context(library, self._context, form), form
        planes = frame.planes
        sources = _Pointers(*(plane.buffer_ptr for plane in planes))
        strides = _Strides(*(plane.line_size for plane in planes))
        target, stride = _Pointers(out_HWC.ctypes.data), _Strides(out_HWC.strides[0])
        library.sws_scale(self._context, sources, strides, 0, frame.height, target, stride)


def _context(library: Any, old: int | None, form: tuple[Any, ...]) -> int:
    width, height, name, colorspace, color_range = form
    pix_fmt, rgb24 = (library.av_get_pix_fmt(word) for word in (name.encode(), b"rgb24"))
    library.sws_freeContext(old)
    context = library.sws_getContext(width, height, pix_fmt, width, height, rgb24, _BILINEAR, None, None, None)
    if not context:
        raise MemoryError("swscale has no room for a converter")
    table = library.sws_getCoefficients(colorspace)
    is_full = color_range == _FULL or name.startswith("yuvj")
    library.sws_setColorspaceDetails(context, table, is_full, table, 1, 0, _ONE, _ONE)
    return int(context)


@cache
def _library() -> Any:
    """Swscale as PyAV loaded it, with the types of what is called; None where it is not found."""
    with open("/proc/self/maps") as file:
        paths = {line.split()[-1] for line in file if "/libswscale" in line or "/libavutil" in line}
    found = {name: path for path in paths for name in ("libswscale", "libavutil") if f"/{name}" in path}
    if len(found) < 2:
        return None
    library: Any = ctypes.CDLL(found["libswscale"])
    library.av_get_pix_fmt = ctypes.CDLL(found["libavutil"]).av_get_pix_fmt
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in [
        ("av_get_pix_fmt", number, [ctypes.c_char_p]),
        ("sws_getContext", pointer, [number] * 7 + [pointer] * 3),
        ("sws_getCoefficients", pointer, [number]),
        ("sws_setColorspaceDetails", number, [pointer, pointer, number, pointer] + [number] * 4),
        ("sws_scale", number, [pointer, pointer, pointer, number, number, pointer, pointer]),
        ("sws_freeContext", None, [pointer]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def _is_trusted() -> bool:
    """Whether it gives what PyAV gives, tried once on noise."""
    if _library() is None:
        return False
    generator, side = np.random.default_rng(0), 64
    widths = range(side, side + 4 * _PIXELS_AT_ONCE, _PIXELS_AT_ONCE)
    for width, name, colorspace, color_range in itertools.product(widths, sorted(_FORMATS), _MATRICES, (1, 2)):
        frame = VideoFrame.from_ndarray(generator.integers(0, 256, (side * 3 // 2, width), np.uint8), name)
        frame.colorspace, frame.color_range = colorspace, color_range
        memory = np.zeros(side * width * 3 + 2 * ROOM_BEHIND_BYTES, np.uint8)
        out = memory[: side * width * 3].reshape(side, width, 3)
        DirectConverter().convert(frame, out)
        if memory[-ROOM_BEHIND_BYTES:].any():
            return False
        if not np.array_equal(out, VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()):
            return False
    return True
