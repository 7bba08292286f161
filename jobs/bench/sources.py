"""What the benchmarks decode: the clips that we carry, scaled and encoded as such videos are found."""

import io
from fractions import Fraction
from importlib.resources import files
from itertools import islice
from typing import cast

import av
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

__all__ = ["CODECS", "encoded", "scene"]

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
