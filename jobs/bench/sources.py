"""What the benchmarks take: the clips that we carry, scaled and encoded as such videos are found."""

import io
from fractions import Fraction
from importlib.resources import files
from itertools import islice, zip_longest
from typing import cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from torch import Tensor

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import frames_to_clips

__all__ = ["CODECS", "clips", "encoded", "scene"]

_CLIPS = ("bigbuckbunny.mp4", "cityCC0.mpg")  # an animation, and a city at night that a camera saw
_RATE, _GROUP = 25, 50
# By encoder: the container, bits a pixel where its constant quality cannot be asked for, and options.
CODECS: dict[str, tuple[str, float, dict[str, str]]] = {
    "libx264": ("mp4", 0, {"preset": "fast", "crf": "23"}),
    "libx265": ("mp4", 0, {"preset": "fast", "crf": "26", "x265-params": "log-level=none"}),
    "libvpx-vp9": ("webm", 0, {"deadline": "good", "cpu-used": "5", "row-mt": "1", "crf": "33"}),
    "mpeg4": ("avi", 0.2, {"bf": "2"}),
    "mpeg2video": ("mpegts", 0.35, {"bf": "2"}),
}


def scene(height: int, num_frames: int) -> list[VideoFrame]:
    """As many frames, half from each clip, 16:9, of this height."""
    frames: list[VideoFrame] = []
    for number, name in enumerate(_CLIPS, start=1):
        clip = io.BytesIO(files("jobs").joinpath("clips", name).read_bytes())
        with cast(InputContainer, av.open(clip)) as container:
            wanted = islice(container.decode(video=0), num_frames * number // len(_CLIPS) - len(frames))
            width = round(height * 16 / 9 / 2) * 2
            frames += [
                frame.reformat(width, height, "yuv420p", interpolation=Interpolation.BICUBIC) for frame in wanted
            ]
    return frames


def clips(size: int, num_frames: int, count: int) -> list[Tensor]:
    """As many clips (1, 3, T, H, W), float32 in [-1, 1], from the middle of either video in turns.

    Where they are too short for so many, their windows overlap.
    """
    windows = []
    for number, name in enumerate(_CLIPS):
        data = files("jobs").joinpath("clips", name).read_bytes()
        frames = [f.pixels_HWC for f in decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=size))]
        wanted = (count + 1 - number) // len(_CLIPS)
        starts = np.linspace(0, len(frames) - num_frames, max(wanted, 1)).astype(int)[:wanted]
        windows.append([np.stack(frames[start : start + num_frames]) for start in starts])
    both = [window for pair in zip_longest(*windows) for window in pair if window is not None]
    return [frames_to_clips(torch.from_numpy(window[None])) for window in both]


def encoded(codec: str, frames: list[VideoFrame]) -> bytes:
    """The frames as a video of this encoder, with frames that refer forwards where its codec has them."""
    container, bits, options = CODECS[codec]
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        stream = cast(VideoStream, output.add_stream(codec, rate=_RATE, options=options))
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        stream.gop_size = _GROUP
        stream.bit_rate = int(bits * frames[0].width * frames[0].height * _RATE)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, _RATE), PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return sink.getvalue()
