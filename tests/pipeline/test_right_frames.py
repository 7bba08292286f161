"""Whatever a video is stored as, its frames come out upright, in square pixels, in the right colours, at their times.

Each case makes a video of known frames by PyAV, Pillow or bytes, and compares what comes out with those frames.
"""

import dataclasses
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame
from tests.media import gradient_frames, make_video
from tests.memory import forget_peak, peak_bytes

Pixels = np.ndarray


def decode(data: bytes, **options: Any) -> list[DecodedFrame]:
    return list(decode_frames(io.BytesIO(data), len(data), DecodeOptions(**{"size": 64, **options})))


def pattern(count: int = 6, height: int = 64, width: int = 64) -> Pixels:
    """Smooth colours without symmetry, other ones in each frame, which survive chroma at half the size."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    frames = []
    for number in range(count):
        red = 40 + 170 * x
        green = 200 - 120 * y - 40 * x * y
        blue = 60 + 25 * number + 60 * x * (1 - y)
        frames.append(np.stack([red, green, blue], axis=-1))
    return np.clip(np.stack(frames), 0, 255).round().astype(np.uint8)


def psnr(left: Pixels, right: Pixels) -> float:
    error = np.mean((left.astype(np.float64) - right.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def worst(frames: Sequence[DecodedFrame], expected: Pixels) -> float:
    assert len(frames) == len(expected)
    return min(psnr(frame.pixels_HWC, wanted) for frame, wanted in zip(frames, expected, strict=True))


def encode(
    planes: Sequence[av.VideoFrame],
    *,
    codec: str = "ffv1",
    container: str = "matroska",
    fps: int = 10,
    setup: Callable[[Any], None] = lambda stream: None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """A video of these frames, in their own pixel format."""
    with tempfile.NamedTemporaryFile() as file:  # which some muxers go back over
        priority = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            _encode_to(file.name, planes, codec, container, fps, setup, options or {}, muxer or {})
        finally:
            # SVT-AV1, run by root, makes the thread that opens it a real-time one, and so all that it starts later.
            os.sched_setscheduler(0, *priority)
        return file.read()


def _encode_to(
    path: str,
    planes: Sequence[av.VideoFrame],
    codec: str,
    container: str,
    fps: int,
    setup: Callable[[Any], None],
    options: dict[str, str],
    muxer: dict[str, str],
) -> None:
    with av.open(path, "w", format=container, options=muxer) as output:
        stream = output.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = planes[0].width, planes[0].height, planes[0].format.name
        setup(stream)
        for number, frame in enumerate(planes):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def rgb_frames(pixels: Pixels, pix_fmt: str = "yuv444p") -> list[av.VideoFrame]:
    return [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format=pix_fmt) for frame in pixels
    ]


# --- Shape: rotation, flips, pixels that are not square, odd sizes, crops ---


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(degrees: int) -> None:
    shown = pattern(height=48, width=80)
    # What a player turns counterclockwise by so much, to show it upright.
    stored = np.rot90(shown, -degrees // 90, axes=(1, 2))
    data = encode(
        rgb_frames(stored),
        codec="libx264",
        container="mp4",
        options={"crf": "1"},
        setup=lambda stream: stream.set_display_rotation(degrees),
    )
    frames = decode(data, size=48)
    assert worst(frames, shown[:, :, 16:64]) > 38
    assert (frames[0].source.width, frames[0].source.height) == stored.shape[2:0:-1]
    padded = decode(data, size=80, crop="pad")
    assert worst(padded, np.pad(shown, ((0, 0), (16, 16), (0, 0), (0, 0)))) > 38
    kept = decode(data, size=48, crop="keep", factor=8)
    assert kept[0].pixels_HWC.shape == (48, 80, 3) and worst(kept, shown) > 38


def test_a_mirrored_video_is_mirrored_back() -> None:
    shown = pattern()
    matrix = [-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
    data = encode(
        rgb_frames(shown[:, :, ::-1]),
        codec="libx264",
        container="mp4",
        options={"crf": "1"},
        setup=lambda stream: stream.set_display_matrix(matrix),
    )
    assert worst(decode(data), shown) > 38


@pytest.mark.parametrize(("aspect", "stored_width"), [(Fraction(2), 64), (Fraction(1, 2), 256), (Fraction(4, 3), 96)])
def test_pixels_that_are_not_square_are_squared(aspect: Fraction, stored_width: int) -> None:
    shown = pattern(height=64, width=128)
    stored = pattern(height=64, width=stored_width)  # the same scene, sampled otherwise

    def setup(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    data = encode(rgb_frames(stored), codec="libx264", options={"crf": "1"}, setup=setup)
    assert worst(decode(data), shown[:, :, 32:96]) > 38
    assert decode(data, crop="keep", factor=16)[0].pixels_HWC.shape == (64, 128, 3)


@pytest.mark.parametrize(("height", "width"), [(63, 47), (65, 101), (31, 1000), (2, 2), (1, 1)])
def test_odd_sizes(height: int, width: int) -> None:
    shown = pattern(height=height, width=width)
    frames = decode(encode(rgb_frames(shown, "bgr0")), size=32)
    middle = 32 * max(height, width) // min(height, width)
    wanted = [
        np.asarray(
            Image.fromarray(frame).resize((32, middle) if height > width else (middle, 32), Image.Resampling.BILINEAR)
        )
        for frame in shown
    ]
    top, left = ((side - 32) // 2 for side in wanted[0].shape[:2])
    assert worst(frames, np.stack([frame[top : top + 32, left : left + 32] for frame in wanted])) > 36


def test_keep_cuts_to_what_the_model_takes() -> None:
    shown = pattern(height=60, width=107)
    frames = decode(encode(rgb_frames(shown, "bgr0")), size=48, crop="keep", factor=16)
    assert frames[0].pixels_HWC.shape == (48, 80, 3)  # of 48 x 85


# --- Colours: matrices, ranges, depths, light, alpha ---

MATRICES = {
    "bt709": (1, 0.2126, 0.0722),
    "bt601": (5, 0.299, 0.114),
    "smpte170m": (6, 0.299, 0.114),
    "bt2020": (9, 0.2627, 0.0593),
}
RANGES = {"limited": 1, "full": 2}


def yuv_frames(
    pixels: Pixels, matrix: str, range_: str, pix_fmt: str, bits: int = 8, tag: bool = True
) -> list[av.VideoFrame]:
    """By the formulas of BT.601, BT.709 and BT.2020, in planes of full size."""
    code, red_weight, blue_weight = MATRICES[matrix]
    frames = []
    for frame in pixels.astype(np.float64) / 255:
        r, g, b = frame[..., 0], frame[..., 1], frame[..., 2]
        luma = red_weight * r + (1 - red_weight - blue_weight) * g + blue_weight * b
        blue, red = (b - luma) / (2 * (1 - blue_weight)), (r - luma) / (2 * (1 - red_weight))
        scale, top = 2 ** (bits - 8), 2**bits - 1
        if range_ == "limited":
            planes = [scale * (16 + 219 * luma), scale * (128 + 224 * blue), scale * (128 + 224 * red)]
        else:
            planes = [top * luma, scale * 128 + top * blue, scale * 128 + top * red]
        stored = np.stack([np.clip(plane.round(), 0, top) for plane in planes]).astype(
            np.uint8 if bits == 8 else np.uint16
        )
        made = av.VideoFrame(frame.shape[1], frame.shape[0], pix_fmt)
        for plane, values in zip(made.planes, stored, strict=True):
            row = np.frombuffer(plane, stored.dtype).reshape(frame.shape[0], -1)
            row[:, : frame.shape[1]] = values
        if tag:
            made.colorspace, made.color_range = code, RANGES[range_]
        frames.append(made)
    return frames


def tagged(frames: list[av.VideoFrame]) -> Callable[[Any], None]:
    def setup(stream: Any) -> None:
        stream.codec_context.colorspace, stream.codec_context.color_range = frames[0].colorspace, frames[0].color_range

    return setup


@pytest.mark.parametrize("matrix", list(MATRICES))
@pytest.mark.parametrize("range_", list(RANGES))
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv444p", 8), ("yuv444p10le", 10), ("yuv444p12le", 12)])
def test_matrices_ranges_and_depths(matrix: str, range_: str, pix_fmt: str, bits: int) -> None:
    frames = yuv_frames(pattern(), matrix, range_, pix_fmt, bits)
    assert worst(decode(encode(frames, setup=tagged(frames))), pattern()) > 45


@pytest.mark.parametrize(("height", "matrix"), [(64, "bt601"), (720, "bt709")])
def test_what_nothing_is_said_of_is_taken_by_its_size(height: int, matrix: str) -> None:
    shown = pattern(2, height, height)
    frames = yuv_frames(shown, matrix, "limited", "yuv444p", tag=False)
    assert worst(decode(encode(frames), size=height), shown) > 45


def test_the_wrong_matrix_would_be_seen() -> None:
    """So that the bound above says something."""
    frames = yuv_frames(pattern(), "bt709", "limited", "yuv444p", tag=False)
    assert worst(decode(encode(frames)), pattern()) < 36


@pytest.mark.parametrize("codec", ["libx265", "libx264"])
def test_ten_bits_of_lossy_codecs(codec: str) -> None:
    options = {"crf": "4", "x265-params": "log-level=none"} if codec == "libx265" else {"crf": "1"}
    frames = decode(encode(rgb_frames(pattern(), "yuv420p10le"), codec=codec, options=options))
    assert worst(frames, pattern()) > 36


@pytest.mark.parametrize(("transfer", "name"), [(16, "pq"), (18, "hlg")])
def test_high_dynamic_range_is_mapped_as_stated(transfer: int, name: str) -> None:
    nits = np.array([0, 1, 10, 50, 100, 203, 400, 1000])
    grey = np.broadcast_to(np.repeat(nits, 8)[None, :, None], (64, 64, 3)).astype(np.float64)
    if name == "pq":
        power = (grey / 10_000) ** 0.1593017578125
        signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    else:
        scene = (grey / 1000) ** (1 / 1.2)
        signal = np.where(
            scene <= 1 / 12,
            np.sqrt(3 * scene),
            0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
        )
    frames = yuv_frames(255 * signal[None], "bt2020", "limited", "yuv444p10le", 10)

    def setup(stream: Any) -> None:
        tagged(frames)(stream)
        stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer, 9

    for frame in frames:
        frame.color_trc, frame.color_primaries = transfer, 9
    (frame,) = decode(encode(frames, setup=setup))
    light, peak = nits / 203, 1000 / 203
    expected = 255 * np.clip(light * (1 + light / peak**2) / (1 + light), 0, 1) ** (1 / 2.4)
    found = frame.pixels_HWC[32, 4::8].astype(np.float64)
    assert np.abs(found - expected[:, None]).max() <= 2.5, (found[:, 0], expected)
    assert "tone_mapped" in frame.flags


@pytest.mark.parametrize("pix_fmt", ["bgra", "yuva444p"])
def test_alpha_is_over_black(pix_fmt: str) -> None:
    shown = pattern()
    alpha = np.broadcast_to(np.linspace(0, 255, 64).round().astype(np.uint8)[None, :, None, None], (6, 64, 64, 1))
    planes = [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgba").reformat(format=pix_fmt)
        for frame in np.concatenate([shown, alpha], axis=-1)
    ]
    expected = (shown * (alpha / 255)).round().astype(np.uint8)
    assert worst(decode(encode(planes)), expected) > 40


@pytest.mark.parametrize(("codec", "name"), [("libvpx-vp9", "vp9"), ("libvpx", "vp8")])
def test_alpha_that_webm_keeps_beside_the_frames(codec: str, name: str) -> None:
    shown = pattern()
    alpha = np.broadcast_to(np.repeat([0, 255], 32).astype(np.uint8)[None, None, :, None], (6, 64, 64, 1))
    planes = [
        av.VideoFrame.from_ndarray(frame, "rgba").reformat(format="gbrap").reformat(format="yuva420p", threads=1)
        for frame in np.concatenate([shown, alpha], axis=-1)
    ]
    options = {"auto-alt-ref": "0", "crf": "4", "b": "4M"}
    data = encode(planes, codec=codec, container="webm", options=options)
    frames = decode(data)
    assert worst(frames, (shown * (alpha / 255)).round().astype(np.uint8)) > 28 and frames[0].source.codec == name
    assert frames[0].pixels_HWC[:, :28].max() <= 4
    late = decode(data, start_seconds=0.3)
    assert [frame.seconds for frame in late] == pytest.approx([0.3, 0.4, 0.5]), "behind a seek too"
    assert all(np.array_equal(a.pixels_HWC, b.pixels_HWC) for a, b in zip(late, frames[3:], strict=True))


@pytest.mark.parametrize("width", [64, 66, 68, 98, 130, 132])
def test_alpha_of_any_width_has_all_its_columns(width: int) -> None:
    """FFmpeg 8 leaves the last ones as they were in memory, where it makes RGBA of 4:2:0 of some widths."""
    shown = pattern(6, 64, width)
    opaque = np.concatenate([shown, np.full((*shown.shape[:3], 1), 255, np.uint8)], axis=-1)
    planes = [
        av.VideoFrame.from_ndarray(frame, "rgba").reformat(format="gbrap").reformat(format="yuva420p", threads=1)
        for frame in opaque
    ]
    assert worst(decode(encode(planes), crop="keep"), shown) > 36


def test_interlaced_video_is_deinterlaced_and_flagged() -> None:
    """Two moments woven into each frame: what comes out has no comb."""
    moments = np.broadcast_to(pattern(1, 64, 64), (16, 64, 64, 3)).copy()
    for number in range(16):
        moments[number, :, 3 * number : 3 * number + 12] = (250, 250, 250)
    woven = moments[::2].copy()
    woven[:, 1::2] = moments[1::2, 1::2]
    data = encode(rgb_frames(woven, "yuv420p"), codec="libx264", options={"crf": "1", "x264-params": "tff=1"})
    frames = decode(data)
    assert len(frames) == 8 and all("deinterlaced" in frame.flags for frame in frames[1:])
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(8)])

    def combs(pixels: Pixels) -> float:
        rows = pixels.astype(np.float64)
        return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())

    assert max(combs(frame.pixels_HWC) for frame in frames[1:-1]) < 0.35 * min(combs(frame) for frame in woven[1:-1])
    assert all(not frame.flags for frame in decode(encode(rgb_frames(moments, "yuv420p"), codec="libx264")))
    # And what does not move is as it was.
    still = slice(60, None)
    assert (
        worst(
            [dataclasses.replace(frame, pixels_HWC=frame.pixels_HWC[:, still]) for frame in frames[1:-1]],
            moments[2:-2:2, :, still],
        )
        > 36
    )


# --- Containers: streams, covers, pictures ---


def test_the_best_of_several_streams_is_taken() -> None:
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as output:
        streams = []
        for size, disposition in ((32, 0), (64, Disposition.default)):
            stream = output.add_stream("ffv1", rate=10)
            stream.width = stream.height = size
            stream.pix_fmt, stream.disposition = "bgr0", disposition
            streams.append((stream, size))
        for number in range(4):
            for stream, size in streams:
                frame = av.VideoFrame.from_ndarray(pattern(4, size, size)[number], "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                output.mux(stream.encode(frame))
        for stream, _ in streams:
            output.mux(stream.encode())
    frames = decode(sink.getvalue())
    assert frames[0].source.width == 64 and worst(frames, pattern(4)) > 45


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=98, **options)
    return sink.getvalue()


def test_a_cover_is_no_video() -> None:
    picture = jpeg(pattern(1)[0])
    content = b"\0image/jpeg\0\x03\0" + picture
    frame = b"APIC" + len(content).to_bytes(4, "big") + b"\0\0" + content
    size = len(frame)
    header = b"ID3\x03\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp3") as output:
        stream = output.add_stream("libmp3lame", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152 * 40), np.int16), format="s16", layout="mono")
        sound.sample_rate = 44100
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(SampleError, match="a cover picture is no video") as caught:
        decode(header + frame + sink.getvalue())
    assert caught.value.error == "no_video"


def animated(format_: str, pixels: Pixels, durations: list[int], **options: Any) -> bytes:
    sink = io.BytesIO()
    images = [Image.fromarray(frame) for frame in pixels]
    images[0].save(sink, format_, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("format_", "options", "bound"), [("WEBP", {"lossless": True}, 45), ("PNG", {}, 45), ("GIF", {}, 25)]
)
def test_animated_pictures(format_: str, options: dict[str, Any], bound: float) -> None:
    frames = decode(animated(format_, pattern(), [100, 300, 50, 200, 100, 100], **options))
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.4, 0.45, 0.65, 0.75])
    assert worst(frames, pattern()) > bound and frames[0].source.codec == format_.lower()
    assert len(decode(animated(format_, pattern(), [100] * 6, **options), fps=5)) == 3


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_still_has_one_frame(format_: str) -> None:
    sink = io.BytesIO()
    Image.fromarray(pattern(1)[0]).save(sink, format_, **({"quality": 98} if format_ in ("JPEG", "WEBP") else {}))
    for options in ({}, {"fps": 4}, {"every": 3}):
        (frame,) = decode(sink.getvalue(), **options)
        assert frame.flags == ("still",) and frame.seconds == 0 and psnr(frame.pixels_HWC, pattern(1)[0]) > 33


def test_grey_of_sixteen_bits_keeps_its_levels() -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        sink = io.BytesIO()
        Image.fromarray(np.broadcast_to(levels, (64, 64)).copy()).save(sink, form)
        (frame,) = decode(sink.getvalue())
        found = frame.pixels_HWC[32].astype(int)
        assert np.abs(found - (levels[:, None] / 257)).max() <= 1, form
    sink = io.BytesIO()
    Image.fromarray(np.full((64, 64), 0.5, np.float32)).save(sink, "TIFF")
    with pytest.raises(SampleError, match=r"unreadable .*mode F, of which nothing says which value is white"):
        decode(sink.getvalue())


@pytest.mark.parametrize("form", ["TIFF", "MPO"])
def test_pages_are_no_moments(form: str) -> None:
    sink = io.BytesIO()
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    red.save(sink, form, save_all=True, append_images=[blue])
    (frame,) = decode(sink.getvalue())
    assert "still" in frame.flags and frame.pixels_HWC[0, 0, 0] > 200


def test_a_matrix_that_is_reserved_is_one_that_is_not_said() -> None:
    frames = yuv_frames(pattern(2), "bt601", "limited", "yuv444p", tag=False)

    def setup(stream: Any) -> None:
        stream.codec_context.colorspace = 3

    for frame in frames:
        frame.colorspace = 3
    assert worst(decode(encode(frames, setup=setup)), pattern(2)) > 45


def test_a_still_is_turned_and_its_alpha_is_over_black() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    stored = np.rot90(pattern(1)[0])
    (frame,) = decode(jpeg(np.ascontiguousarray(stored), exif=exif))
    assert psnr(frame.pixels_HWC, pattern(1)[0]) > 33
    sink = io.BytesIO()
    Image.fromarray(np.full((64, 64, 4), (200, 100, 50, 128), np.uint8)).save(sink, "PNG")
    (frame,) = decode(sink.getvalue())
    assert np.unique(frame.pixels_HWC.reshape(-1, 3), axis=0).tolist() == [[100, 50, 25]]


# --- Times ---


def test_a_video_of_one_frame() -> None:
    for data in (make_video(gradient_frames(1)), encode(rgb_frames(pattern(1), "bgr0"))):
        (frame,) = decode(data, size=32, fps=8)
        assert frame.seconds == 0 and "still" not in frame.flags


def test_a_raw_stream_has_times_by_its_rate() -> None:
    """Annex B has no times: the frames all come, and are flagged where FFmpeg makes none up."""
    frames = decode(
        encode(rgb_frames(pattern(), "yuv420p"), codec="libx264", container="h264", fps=25, options={"crf": "1"})
    )
    assert worst(frames, pattern()) > 38
    gaps = np.diff([frame.seconds for frame in frames])
    assert gaps == pytest.approx([0.04] * 5)


def numbers(frames: Sequence[DecodedFrame]) -> list[int]:
    """Which frames of `gradient_frames` these are."""
    return [round((float(frame.pixels_HWC.mean()) - 24) / 10) for frame in frames]


def test_an_edit_list_hides_frames() -> None:
    """They are decoded, since others refer to them, and never shown."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "1", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, pixels in enumerate(gradient_frames(20)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        time_base = stream.time_base
    data = bytearray(sink.getvalue())
    at = data.index(b"elst") + 4 + 4 + 4 + 4  # version, count, duration
    media_time = int.from_bytes(data[at : at + 4], "big")
    five = round(5 / 10 / time_base)
    data[at : at + 4] = (media_time + five).to_bytes(4, "big")
    frames = decode(bytes(data), size=32)
    assert numbers(frames) == list(range(5, 20))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(15)])
    assert numbers(decode(bytes(data), size=32, fps=5)) == list(range(5, 20, 2))


def test_recordings_that_were_joined_follow_each_other() -> None:
    """The second one's clock begins anew."""
    part = make_video(gradient_frames(10), container="mpegts")
    frames = decode(part + part, size=32)
    assert numbers(frames) == [*range(10), *range(10)]
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx([0.1] * 19)
    assert frames[0].flags == () and frames[-1].flags == ("damaged_packets", "joined_times"), "its counters break too"


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        *((container, "mpeg2video", {"bf": "2"}) for container in ("mpegts", "mpeg", "matroska")),
        *((container, "libx264", {"bf": "3"}) for container in ("mpegts", "matroska")),
        *((container, "mpeg4", {}) for container in ("mpegts", "mpeg", "matroska")),
    ],
)
def test_joined_recordings_of_decoders_that_hold_frames_back(
    container: str, codec: str, options: dict[str, str]
) -> None:
    """The last frames of the first come out when packets of the second go in."""
    one = encode(rgb_frames(pattern(25), "yuv420p"), codec=codec, container=container, fps=25, options=options)
    frames = decode(one + one)
    seconds = [frame.seconds for frame in frames]
    assert len(frames) >= 48 and seconds == sorted(set(seconds)), "MPEG-PS says some times of two frames"
    assert "joined_times" in frames[-1].flags
    assert worst([frames[-1]], pattern(25)[-1:]) > 28


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_keys_that_are_none_cost_no_frame(container: str) -> None:
    """A recovery point is marked as a key, and the frames right behind it need those before."""
    options = {"g": "12", "x264-params": "intra-refresh=1"}
    data = encode(rgb_frames(pattern(60), "yuv420p"), codec="libx264", container=container, fps=10, options=options)
    whole = {frame.seconds: frame.pixels_HWC for frame in decode(data)}
    assert len(whole) == 60
    for asked in ({"fps": 1.0}, {"every": 13}, {"start_seconds": 1.0, "end_seconds": 3.0}, {"start_seconds": 1.3}):
        frames = decode(data, **asked)
        wanted = {"fps": 6, "every": 5}.get(next(iter(asked)), 20 if "end_seconds" in asked else 47)
        assert len(frames) == wanted, asked
        assert all(np.array_equal(frame.pixels_HWC, whole[frame.seconds]) for frame in frames)


@pytest.mark.parametrize(("codec", "container"), [("mpeg4", "avi"), ("mpeg4", "mp4"), ("libx264", "mp4")])
def test_packets_that_are_all_called_keys_are_none(codec: str, container: str) -> None:
    """As without an index; what is taken is not decoded without what it refers to."""
    data = bytearray(encode(rgb_frames(pattern(60), "yuv420p"), codec=codec, container=container, fps=25))
    if container == "mp4":
        box = data.index(b"stss")
        data[box : box + 4] = b"free"
    else:
        del data[data.rindex(b"idx1") :]
    whole = {frame.seconds: frame.pixels_HWC for frame in decode(bytes(data))}
    for asked, count in (({"every": 2}, 30), ({"fps": 1.0}, 3), ({"start_seconds": 1.0, "end_seconds": 2.0}, 25)):
        frames = decode(bytes(data), **asked)
        assert len(frames) == count
        assert all(np.array_equal(frame.pixels_HWC, whole[frame.seconds]) for frame in frames), asked


def test_avi_knows_no_times_and_loses_no_frame() -> None:
    data = encode(rgb_frames(pattern(50), "yuv420p"), codec="libx264", container="avi", fps=25, options={"bf": "3"})
    frames = decode(data)
    assert [frame.seconds for frame in frames] == pytest.approx([number / 25 for number in range(50)])
    assert worst(frames, pattern(50)) > 30


def test_limits_and_spans_of_animations() -> None:
    data = animated("GIF", pattern(6), [100] * 6)
    assert len(decode(data)) == 6 and len(decode(data, start_seconds=0.2, end_seconds=0.5)) == 3
    for asked, error in (({"max_seconds": 0.3}, "limit"), ({"min_seconds": 5.0}, "filtered")):
        with pytest.raises(SampleError, match=error):
            decode(data, **asked)
    with pytest.raises(SampleError, match=r"invalid .*no frame is in the span from 9 s"):
        decode(animated("PNG", pattern(1), [0]), start_seconds=9.0)


def test_times_that_damage_garbled_stay_in_order() -> None:
    data = bytearray(make_video(gradient_frames(60)))
    clean = decode(bytes(data), size=32)
    box = data.index(b"stts")
    found = 0
    for offset in range(box + 12, box + 20):
        for bit in range(8):
            spoilt = bytearray(data)
            spoilt[offset] ^= 1 << bit
            try:
                frames = decode(bytes(spoilt), size=32)
            except SampleError:
                continue
            seconds = [frame.seconds for frame in frames]
            assert seconds == sorted(set(seconds))
            found += 1
    assert found and len(clean) == 60


def test_a_span_is_cut_out() -> None:
    data = make_video(gradient_frames(20))
    frames = decode(data, size=32, start_seconds=0.5, end_seconds=1.2)
    assert numbers(frames) == list(range(5, 12))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(5, 12)])
    assert numbers(decode(data, size=32, fps=5, start_seconds=0.5)) == list(range(5, 20, 2))
    with pytest.raises(SampleError, match=r"invalid .*no frame is in the span from 60 s; the last one is at 1\.9 s"):
        decode(data, size=32, start_seconds=60.0)
    # Limits and filters are those of the span.
    assert len(decode(data, size=32, start_seconds=0.5, end_seconds=1.2, max_seconds=0.75, min_seconds=0.7)) == 7
    with pytest.raises(SampleError, match=r"limit .*1\.5 seconds, at most 1\.4"):
        decode(data, size=32, start_seconds=0.5, max_seconds=1.4)


def test_a_span_before_the_cut_is_whole() -> None:
    """Of a file that breaks off, what lies before is there."""
    # The index stands in front, as in a file that is made to be streamed.
    data = encode(
        rgb_frames(pattern(50)), codec="libx264", container="mp4", muxer={"movflags": "faststart"}, options={"g": "5"}
    )
    cut = data[: len(data) * 9 // 10]
    assert len(decode(cut, start_seconds=0.5, end_seconds=1.5)) == 10
    for start, end in ((0.0, None), (2.0, 4.5), (4.0, 4.5)):
        with pytest.raises(SampleError, match="truncated"):
            decode(cut, start_seconds=start, end_seconds=end)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("matroska", "libx264"), ("webm", "libvpx-vp9"), ("flv", "libx264"), ("avi", "mpeg4"), ("mp4", "libx264")],
)
def test_a_file_that_is_cut_off_says_so(container: str, codec: str) -> None:
    """However whole its last frame is: the header promised more."""
    muxer = {"movflags": "faststart"} if container == "mp4" else {}
    data = encode(rgb_frames(pattern(100), "yuv420p"), codec=codec, container=container, fps=25, muxer=muxer)
    assert len(decode(data)) == 100
    errors = []
    for share in (0.5, 0.6, 0.8):
        with pytest.raises(SampleError) as caught:
            decode(data[: int(len(data) * share)])
        errors.append(caught.value.error)
    assert "truncated" in errors and set(errors) <= {"truncated", "unreadable"}


@pytest.mark.parametrize(("shown_ms", "start_ticks"), [(None, 1.0), (1000, 1.0), (1000, 0.0)])
def test_an_edit_list_leaves_frames_out_and_the_rest_is_whole(shown_ms: int | None, start_ticks: float) -> None:
    options = {"g": "10", "bf": "0"}
    data = encode(rgb_frames(pattern(60), "yuv420p"), codec="libx264", container="mp4", options=options)
    box, header = data.index(b"elst"), data.index(b"mdhd")
    ticks = struct.unpack(">I", data[header + 16 : header + 20])[0]
    edited = bytearray(data)
    if shown_ms is not None:
        edited[box + 12 : box + 16] = struct.pack(">I", shown_ms)
    edited[box + 16 : box + 20] = struct.pack(">i", int(ticks * start_ticks))
    first, length = round(start_ticks * 10), 60 if shown_ms is None else shown_ms // 100
    expected = pattern(60)[first : first + length]
    frames = decode(bytes(edited))
    assert abs(len(frames) - len(expected)) <= 1, "an edit ends within a frame"
    assert worst(frames[: len(expected)], expected[: len(frames)]) > 34


# --- Limits, filters and damage ---

HALF = make_video(gradient_frames(40))


def test_a_shape_that_would_grow_beyond_the_limit_is_one() -> None:
    data = encode(rgb_frames(pattern(2, 2000, 2), "bgr0"))
    with pytest.raises(SampleError, match=r"limit .*2 x 2000 pixels become 64 x 64000, at most 1,000,000 are allowed"):
        decode(data, crop="keep", max_pixels=1_000_000)
    assert len(decode(data, max_pixels=1_000_000)) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_seconds": 3.9}, "limit", "4.0 seconds, at most 3.9 are allowed"),
        ({"max_pixels": 64 * 48 - 1}, "limit", "a frame has 64 x 48 pixels, at most 3,071 are allowed"),
        ({"max_frames": 39}, "limit", "more than 39 frames come out"),
        ({"min_seconds": 5}, "filtered", "4.0 seconds, at least 5 are asked for"),
        ({"longest_seconds": 3}, "filtered", "4.0 seconds, at most 3 are asked for"),
        ({"min_fps": 12}, "filtered", "10.0 fps, at least 12 are asked for"),
        ({"max_fps": 8}, "filtered", "10.0 fps, at most 8 are asked for"),
        ({"min_size": 49}, "filtered", "its shorter side has 48 pixels, at least 49 are asked for"),
        ({"codecs": ("hevc", "av1")}, "filtered", "its codec is h264, asked for are hevc, av1"),
    ],
)
def test_limits_and_filters(options: dict[str, Any], error: str, message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        decode(HALF, size=32, **options)
    assert caught.value.error == error
    allowed = {"max_seconds": 4, "max_pixels": 64 * 48, "max_frames": 40, "min_seconds": 4, "longest_seconds": 4}
    allowed |= {"min_fps": 10, "max_fps": 10, "min_size": 48, "codecs": ("h264",)}
    assert len(decode(HALF, size=32, **allowed)) == 40


def huge(format_: str) -> bytes:
    if format_ == "png":
        data = bytearray(animated("PNG", pattern(1), [0]))
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        return bytes(data)
    data = bytearray(encode(rgb_frames(pattern(1), "yuv420p"), codec="rawvideo", container="avi"))
    at = data.index(b"strf") + 8 + 4
    data[at : at + 8] = (60_000).to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize(("format_", "error"), [("png", "limit"), ("avi", "unreadable")])
def test_a_header_that_claims_too_much_costs_nothing(format_: str, error: str) -> None:
    forget_peak()
    before = peak_bytes()
    with pytest.raises(SampleError) as caught:
        decode(huge(format_), max_pixels=2**26)
    assert caught.value.error == error, caught.value
    assert peak_bytes() - before < 200e6


def test_a_video_that_is_cut_off_says_so() -> None:
    data = encode(
        rgb_frames(np.concatenate([pattern()] * 5), "yuv420p"),
        codec="libx264",
        container="mp4",
        options={"g": "5"},
        muxer={"movflags": "faststart"},
    )
    found: list[DecodedFrame] = []
    with pytest.raises(SampleError) as caught:
        found.extend(decode_frames(io.BytesIO(data[: len(data) * 2 // 3]), 0, DecodeOptions(size=64)))
    assert caught.value.error == "truncated" and "of 30 in its index" in caught.value.message


def damaged(codec: str, container: str, pix_fmt: str, options: dict[str, str], at: float) -> bytes:
    """Sixty zeros somewhere in thirty frames."""
    planes = rgb_frames(np.concatenate([pattern()] * 5), pix_fmt)
    data = bytearray(encode(planes, codec=codec, container=container, options=options))
    start = int(len(data) * at)
    data[start : start + 60] = bytes(60)
    return bytes(data)


def test_a_video_that_is_damaged_says_so_after_what_came_before() -> None:
    data = damaged("libx264", "mp4", "yuv420p", {"g": "10"}, 0.5)
    frames, came = decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=64)), 0
    with pytest.raises(SampleError, match=r"decoding h264 fails|h264 gives is damaged") as caught:
        for _ in frames:
            came += 1
    assert caught.value.error == "unreadable" and 10 <= came < 30


def test_what_ffmpeg_makes_do_with_is_flagged() -> None:
    """It shows the frame before in place of one whose checksum is wrong."""
    data = damaged("ffv1", "matroska", "bgr0", {"slicecrc": "1", "level": "3"}, 0.5)
    frames = decode(data)
    assert len(frames) == 30
    first = next(number for number, frame in enumerate(frames) if frame.flags)
    expected = np.concatenate([pattern()] * 5)
    assert worst(frames[:first], expected[:first]) > 45 and psnr(frames[first].pixels_HWC, expected[first]) < 30
    assert frames[first].flags == ("decoder_errors",)
