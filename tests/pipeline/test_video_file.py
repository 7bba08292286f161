"""Videos that we write: frames at their times, and the source's sound, packet by packet."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.video_file import Sound, VideoWriter, write_video
from tests.media import gradient_frames

RATE = 48_000


def source(
    codec: str, container: str, *, video_from: float = 0.0, sound_from: float = 0.0, seconds: float = 2.0
) -> io.BytesIO:
    """A video with a sound of rising pitch; each may begin at its own time."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        picture = output.add_stream("libx264", rate=10, options={"bf": "3", "g": "12", "sc_threshold": "0"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream(codec, rate=RATE, layout="mono")
        for number, pixels in enumerate(gradient_frames(round(seconds * 10))):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + round(video_from * 10), Fraction(1, 10)
            output.mux(picture.encode(frame))
        at = np.arange(round(seconds * RATE)) / RATE
        wave = (np.sin(2 * np.pi * (200 + 100 * at) * at) * 20_000).astype(np.int16)
        size = sound.codec_context.frame_size or 1024
        for begin in range(0, len(wave) - size, size):
            frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + size], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, begin + round(sound_from * RATE)
            frame.time_base = Fraction(1, RATE)
            output.mux(sound.encode(frame))
        output.mux(picture.encode())
        output.mux(sound.encode())
    return io.BytesIO(sink.getvalue())


def packets(file: io.BytesIO | Path) -> list[tuple[float, bytes]]:
    """The sound of a file: when each packet is heard, and its bytes."""
    with av.open(file if isinstance(file, io.BytesIO) else str(file)) as container:
        found = [packet for packet in container.demux(audio=0) if packet.size]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in found]


def frame_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def written(path: Path, sound_of: io.BytesIO, seconds: Sequence[float]) -> Path:
    with VideoWriter(path, sound=Sound(sound_of)) as writer:
        for number, at in enumerate(seconds):
            writer.write(np.full((32, 48, 3), 3 * number, np.uint8), at)
    return path


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("mp2", "mpegts"), ("flac", "matroska")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_copied(tmp_path: Path, codec: str, container: str, suffix: str) -> None:
    video = source(codec, container)
    times = [0.0, 0.1, 0.5, 1.2, 1.9]
    path = written(tmp_path / f"out{suffix}", video, times)
    assert frame_times(path) == pytest.approx(times, abs=2e-3)
    ours, theirs = packets(path), packets(io.BytesIO(video.getvalue()))
    skipped = next(number for number, (_, data) in enumerate(theirs) if data == ours[0][1])
    assert skipped <= 2, "what is heard before the first frame, as an encoder's delay, is left out"
    assert [data for _, data in ours] == [data for _, data in theirs[skipped:]]


@pytest.mark.parametrize(("video_from", "sound_from"), [(0.0, 0.5), (1.0, 0.0), (0.5, 1.0)])
def test_sound_keeps_its_place_beside_the_frames(tmp_path: Path, video_from: float, sound_from: float) -> None:
    """Our times begin with the first frame, wherever the source's clock stood then."""
    video = source("pcm_s16le", "matroska", video_from=video_from, sound_from=sound_from)
    ours = packets(written(tmp_path / "out.mkv", video, [0.0, 0.1, 1.9]))
    theirs = packets(io.BytesIO(video.getvalue()))
    expected = [(at - video_from, data) for at, data in theirs if at - video_from >= -1e-3]
    assert [data for _, data in ours] == [data for _, data in expected] and len(expected) > 20
    assert [at for at, _ in ours] == pytest.approx([at for at, _ in expected], abs=2e-3)


@pytest.mark.parametrize("container", ["mpegts", "matroska"])
def test_a_recording_that_begins_between_two_keys(tmp_path: Path, container: str) -> None:
    """Its first frames cannot be decoded: what is heard with the first one that can is what comes with it."""
    video = source("mp2", container, seconds=4.0)
    cut = io.BytesIO()
    with av.open(video) as whole, av.open(cut, "w", format=container) as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in whole.streams}
        for packet in whole.demux():
            if packet.size and packet.pts * packet.time_base >= 0.25:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    with av.open(io.BytesIO(cut.getvalue())) as opened:
        first = next(opened.decode(video=0)).time
        assert first > float(opened.streams.video[0].start_time * opened.streams.video[0].time_base) + 0.05
    theirs = [(at, data) for at, data in packets(io.BytesIO(cut.getvalue())) if at >= first]
    ours = packets(written(tmp_path / "out.mkv", io.BytesIO(cut.getvalue()), [0.0, 1.0, 2.0]))
    assert [data for _, data in ours] == [data for _, data in theirs] and len(ours) > 20
    assert [at for at, _ in ours] == pytest.approx([at - first for at, _ in theirs], abs=2e-3)


def test_packets_lie_where_they_are_played(tmp_path: Path) -> None:
    """A player reads on: sound and pictures of one time are near each other, not one behind the other."""
    # FFmpeg itself puts in order what is up to ten seconds apart.
    path = written(tmp_path / "out.mp4", source("aac", "mp4", seconds=30.0), [number / 2 for number in range(60)])
    with av.open(str(path)) as container:
        found = (packet for packet in container.demux() if packet.size)
        order = sorted((packet.pos, packet.stream.type, float(packet.pts * packet.time_base)) for packet in found)
    last = {"video": 0.0, "audio": 0.0}
    for _, kind, at in order:
        last[kind] = at
        assert abs(last["video"] - last["audio"]) < 2.5


def test_sound_that_a_container_does_not_hold(tmp_path: Path) -> None:
    video = source("tta", "matroska")
    with pytest.raises(ConfigError, match=r"--out .*out\.mp4: 'mp4' format does not support 'tta' codec; .*\.mkv"):
        written(tmp_path / "out.mp4", video, [0.0])
    assert list(tmp_path.iterdir()) == []
    assert packets(written(tmp_path / "out.mkv", io.BytesIO(video.getvalue()), [0.0, 1.0]))


def test_what_stands_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="tta"):
        written(target, source("tta", "matroska"), [0.0])
    with pytest.raises(RuntimeError, match="the power fails"), VideoWriter(target) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8), 0.0)
        raise RuntimeError("the power fails")
    assert target.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [target]
    write_video(target, gradient_frames(3), np.arange(3.0))
    assert len(frame_times(target)) == 3 and list(tmp_path.iterdir()) == [target]


def test_no_sound_and_no_video(tmp_path: Path) -> None:
    for data in (b"", b"this is no video"):
        with VideoWriter(tmp_path / "out.mp4", sound=Sound(io.BytesIO(data))) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8), 0.0)
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert [stream.type for stream in container.streams] == ["video"]


def test_a_sound_that_breaks_off_costs_no_frame(tmp_path: Path) -> None:
    whole = source("mp2", "mpegts").getvalue()
    path = written(tmp_path / "out.mp4", io.BytesIO(whole[: len(whole) // 2]), [0.0, 0.5, 1.9])
    assert frame_times(path) == pytest.approx([0.0, 0.5, 1.9], abs=2e-3)
    assert 5 < len(packets(path)) < len(packets(io.BytesIO(whole)))


def test_times_of_write_video_count_from_the_first(tmp_path: Path) -> None:
    write_video(tmp_path / "out.mp4", gradient_frames(3), np.array([7.0, 7.25, 8.0]))
    assert frame_times(tmp_path / "out.mp4") == pytest.approx([0.0, 0.25, 1.0], abs=2e-3)
    with pytest.raises(ConfigError, match=r"--out /nowhere/x\.mp4: cannot be written: No such file"):
        write_video(Path("/nowhere/x.mp4"), gradient_frames(3), np.arange(3.0))
