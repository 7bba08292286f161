"""Videos and tars made for tests."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

__all__ = ["add_member", "gradient_frames", "make_video", "pack_tar"]


def gradient_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 RGB frames (T, H, W, 3) that differ from each other by their brightness: frame i is mostly 20 + 10 * i."""
    ramp = np.linspace(0, 8, width, dtype=np.float64)[None, None, :, None]
    level = 20 + 10 * (np.arange(count) % 22)
    return np.broadcast_to(level[:, None, None, None] + ramp, (count, height, width, 3)).round().astype(np.uint8)


def make_video(
    frames_THWC: np.ndarray,
    *,
    fps: int = 10,
    codec: str = "libx264",
    container: str = "mp4",
    seconds: Sequence[float] | None = None,
    crf: int = 1,
) -> bytes:
    """Encodes frames at a constant rate or at given times (milliseconds count), with `crf: 1` nearly without loss."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        options = {"crf": str(crf), "bf": "0"} if codec == "libx264" else {}
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p" if codec != "ffv1" else "bgr0"
        time_base = Fraction(1, fps) if seconds is None else Fraction(1, 1000)
        stream.time_base = stream.codec_context.time_base = time_base
        for number, pixels in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = time_base
            frame.pts = number if seconds is None else round(seconds[number] * 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return sink.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes | str | Mapping[str, object]) -> None:
    """Adds one file; a mapping as JSON."""
    if isinstance(data, Mapping):
        data = json.dumps(data)
    content = data.encode() if isinstance(data, str) else data
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def pack_tar(path: Path, members: Sequence[tuple[str, bytes | str | Mapping[str, object]]], mode: str = "w") -> Path:
    """Writes a tar with these members in this order; `mode` as tarfile's (w, w:gz)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            add_member(tar, name, data)
    return path
