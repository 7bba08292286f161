"""A decoder that hangs, crashes or takes too much costs its own video alone, and none outlives its worker."""

import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.clips import cut_clips
from pipeline.config import ClipsConfig
from pipeline.decoding.decoder import Decoder, Decoders
from pipeline.decoding.here import DecoderHere
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.errors import SampleError
from pipeline.records import Clip, DecodedFrame, Reject, Video, VideoEnd, VideoRef
from tests.fuzz_videos import resident_bytes
from tests.media import gradient_frames, make_video
from tests.pipeline.test_right_frames import encode, pattern, rgb_frames
from tests.support import ROOT

GOOD = make_video(gradient_frames(20))
OPTIONS = DecodeOptions(size=32)
LIMITS = DecoderLimits(memory_bytes=400 * 2**20, stall_seconds=2)
# Loaded by the decoders' Python as it starts, and no part of the package: what a video may do to FFmpeg.
HOOK = """
import ctypes, os, signal, time
import pipeline.decoding.child as child
from pipeline.decoding.frames import decode_frames as real
real_spans = child.decode_spans

def decode_spans(file, size_bytes, options, spans, **callbacks):
    word = file.read(20)
    file.seek(0)
    if word.startswith(b"hook:"):
        for _ in spans:
            yield hooked(word, options, callbacks)
        return
    for (start, _), frames in zip(spans, real_spans(file, size_bytes, options, spans, **callbacks)):
        yield crashing(frames) if start == 0.725 else frames

def crashing(frames):
    yield next(frames)
    ctypes.string_at(0)

def hooked(word, options, callbacks):
    what = word.split(b":")[1].decode()
    if what == "segfault":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(3)
    if what == "raise":
        raise LookupError("of a library")
    if what == "hang":
        time.sleep(10_000)
    if what == "spin":
        while True:
            pass
    if what == "allocate":
        kept = []
        while True:
            kept.append(b"x" * 2**24)
            callbacks["on_progress"]()
    if what == "malloc":
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        while True:
            pointer = libc.malloc(2**24)
            if not pointer:
                os.abort()
            ctypes.memset(pointer, 1, 2**24)
    if what == "once":
        path = os.environ["HOOK_FOLDER"] + "/once"
        if not os.path.exists(path):
            open(path, "w").close()
            for number, frame in enumerate(real(open(os.environ["HOOK_FOLDER"] + "/good.mp4", "rb"), 0, options)):
                if number == 15:
                    time.sleep(0.2)  # for what was sent to arrive
                    os.kill(os.getpid(), signal.SIGKILL)
                yield frame
        yield from real(open(os.environ["HOOK_FOLDER"] + "/good.mp4", "rb"), 0, options)

child.decode_spans = decode_spans
"""


def video(data: bytes, key: str = "k", reject: Reject | None = None) -> Video:
    ref = VideoRef(shard_id="s", source_shard="s.tar", key=key, occurrence=0, size_bytes=len(data))
    return Video(ref=ref, data=data, end=None, reject=reject)


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "good.mp4").write_bytes(GOOD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HOOK_FOLDER", str(tmp_path))


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    with closing(DecoderPool(2, LIMITS)) as pool:
        yield pool


def outcomes(pool: Any, videos: list[Video]) -> list[Any]:
    """Of each video, its frames, or the error's class and message."""
    found: list[Any] = []
    for _, frames in pool.decode(videos, OPTIONS):
        try:
            found.append(list(frames))
        except SampleError as error:
            found.append((error.error, error.attempts, error.message))
    return found


def spans_of(data: bytes, *spans: tuple[float | None, float | None]) -> list[Video]:
    left = range(len(spans) - 1, -1, -1)
    return [dataclasses.replace(video(data), span=span, spans_left=n) for span, n in zip(spans, left, strict=True)]


def same(left: list[DecodedFrame], right: list[DecodedFrame]) -> bool:
    return len(left) == len(right) and all(
        (a.seconds, a.duration_seconds, a.source, a.flags) == (b.seconds, b.duration_seconds, b.source, b.flags)
        and np.array_equal(a.pixels_HWC, b.pixels_HWC)
        for a, b in zip(left, right, strict=True)
    )


def test_frames_come_back_as_they_are_decoded_here(pool: DecoderPool) -> None:
    videos = [
        video(GOOD),
        video(b"no video"),
        video(b""),
        video(b"", reject=Reject(stage="read", error="limit", message="m")),
        video(make_video(gradient_frames(300, 90, 70))),  # several windows
        video(GOOD),
    ]
    here, there = outcomes(DecoderHere(), videos), outcomes(pool, videos)
    for ours, theirs in zip(here, there, strict=True):
        if isinstance(ours, tuple):
            assert ours[:2] == theirs[:2]
        else:
            assert same(ours, theirs)
    assert [len(item) for item in there if isinstance(item, list)] == [20, 0, 300, 20]


def test_spans_of_one_video_come_from_one_decoder(pool: DecoderPool) -> None:
    long = make_video(gradient_frames(300, 90, 70))
    videos = [
        video(GOOD),
        *spans_of(long, (0.0, 9.0), (9.0, 9.05), (40.0, 50.0), (8.0, None), (None, 0.1)),
        *spans_of(b"no video", (0.0, 1.0), (1.0, 2.0)),
        *spans_of(GOOD, (0.5, 1.0)),
    ]
    here, there = outcomes(DecoderHere(), videos), outcomes(pool, videos)
    assert [len(found) if isinstance(found, list) else found[0] for found in there] == [
        *(20, 90, 1, "invalid", 220, 1, "unreadable", "unreadable", 5)
    ]
    for ours, theirs in zip(here, there, strict=True):
        assert ours == theirs if isinstance(ours, tuple) else same(ours, theirs)


def test_spans_that_are_left_early_do_not_mix(pool: DecoderPool) -> None:
    """A video may be rejected for its first frame; the next span's frames are its own."""
    long = make_video(gradient_frames(300, 90, 70))
    found = []
    for _, frames in pool.decode(spans_of(long, (0.0, None), (20.0, 20.5), (20.5, 21.0)), OPTIONS):
        found.append([round(frame.seconds, 3) for frame in itertools.islice(frames, 3)])
    assert found == [[0.0, 0.1, 0.2], [20.0, 20.1, 20.2], [20.5, 20.6, 20.7]]


@pytest.mark.usefixtures("hooked")
def test_a_span_that_crashes_costs_itself_alone(pool: DecoderPool) -> None:
    found = outcomes(pool, spans_of(GOOD, (0.0, 0.5), (0.725, 1.5), (1.0, 2.0)))
    assert len(found[0]) == 5 and found[1][:2] == ("crash", 2) and len(found[2]) == 10


@pytest.mark.usefixtures("hooked")
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("segfault", "crash", "twice: the decoder was killed by SIGSEGV"),
        ("exit", "crash", "twice: the decoder ended with exit code 3"),
        ("raise", "crash", "LookupError: of a library"),
        ("hang", "timeout", "twice: no byte was read and no frame came for 2 s"),
        ("spin", "timeout", "twice: no byte was read and no frame came for 2 s"),
        ("allocate", "memory", "a decoder may take 419,430,400 bytes, and more were wanted"),
        ("malloc", "crash", "twice: the decoder was killed by SIGABRT"),
    ],
)
def test_a_decoder_that_goes_wrong_costs_its_own_video(pool: DecoderPool, what: str, error: str, message: str) -> None:
    videos = [video(GOOD), video(f"hook:{what}:".encode()), video(GOOD), video(GOOD)]
    before, (found, attempts, said), *after = outcomes(pool, videos)
    assert (found, attempts) == (error, 2) and said.startswith(message)
    assert len(before) == 20 and all(same(frames, before) for frames in after)


@pytest.mark.usefixtures("hooked")
def test_memory_that_is_resident_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's limit does not hold."""
    monkeypatch.setattr("pipeline.decoding.decoder.Decoder.memory_bytes", lambda decoder: 10**9 * (decoder.videos > 1))
    with closing(DecoderPool(1, LIMITS)) as pool:
        first, (error, attempts, said) = outcomes(pool, [video(GOOD), video(b"hook:hang:")])
    assert len(first) == 20
    # The second attempt is the first video of its decoder, so it is the clock that ends it.
    assert (error, attempts) == ("timeout", 2), said


@pytest.mark.usefixtures("hooked")
def test_a_second_attempt_goes_on_where_the_first_one_died(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decoding.windows._FRAMES_AT_MOST", 4)
    here, there = outcomes(DecoderHere(), [video(GOOD)]), outcomes(pool, [video(b"hook:once:")])
    assert same(here[0], there[0]), "each frame once"


def test_a_decoder_that_is_killed_from_outside_costs_an_attempt(pool: DecoderPool) -> None:
    for _, frames in pool.decode([video(make_video(gradient_frames(400)))], OPTIONS):
        first = next(frames)
        for pid in children_of(children_of(os.getpid(), "pipeline.decoding.forkserver")[0]):
            os.kill(pid, signal.SIGKILL)
        rest = list(frames)
    assert len(rest) == 399 and first.seconds == 0 and rest[-1].seconds == pytest.approx(39.9)


def test_a_fork_server_that_is_killed_costs_an_attempt(pool: DecoderPool) -> None:
    found = []
    for number, (_, frames) in enumerate(pool.decode([video(GOOD) for _ in range(6)], OPTIONS)):
        if number in (1, 3):
            (server,) = children_of(os.getpid(), "pipeline.decoding.forkserver")
            os.kill(server, signal.SIGKILL)
        found.append(len(list(frames)))
    assert found == [20] * 6


def test_a_video_that_nobody_reads_to_its_end_is_given_up(pool: DecoderPool) -> None:
    found = []
    for number, (_, frames) in enumerate(pool.decode([video(make_video(gradient_frames(300)))] * 4, OPTIONS)):
        found.append(len(list(frames)) if number % 2 else len([next(frames)]))
    assert found == [1, 300, 1, 300]


def children_of(pid: int, word: str = "") -> list[int]:
    """The processes whose parent is `pid`, and whose command line holds a word."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or word.encode() not in (folder / "cmdline").read_bytes():
                continue
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


WORKER = """
import sys, time
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from tests.pipeline.test_decoders import video
pool = DecoderPool(3, DecoderLimits())
for _, frames in pool.decode([video(open(sys.argv[1], "rb").read())] * 3, DecodeOptions(size=32)):
    next(frames)
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("stopped", [True, False])
def test_decoders_die_with_their_worker(tmp_path: Path, stopped: bool) -> None:
    """Killed, so that it can say goodbye to nobody."""
    path = tmp_path / "v.mp4"
    path.write_bytes(make_video(gradient_frames(600)))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, path], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        (server,) = children_of(process.pid, "pipeline.decoding.forkserver")
        decoders = children_of(server)
        assert len(decoders) == 3
        if stopped:  # they hear of nothing: only the kernel can end them
            for pid in decoders:
                os.kill(pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
    ends = time.monotonic() + 20
    while any(is_alive(pid) for pid in [server, *decoders]):
        assert time.monotonic() < ends, [server, *decoders]
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_decoders_import_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, json, sys\nimport pipeline.decoding.forkserver\n"
        f"json.dump(sorted(sys.modules), open({str(tmp_path / 'modules')!r}, 'w'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(DecoderPool(1, LIMITS)) as pool:
        assert len(outcomes(pool, [video(GOOD)])[0]) == 20
    modules = set(json.loads((tmp_path / "modules").read_text()))
    assert "av" in modules
    assert not {"torch", "ray", "pyarrow", "pydantic", "fsspec", "pandas"} & modules


def test_nothing_is_left_behind(pool: DecoderPool) -> None:
    """Neither open files nor mapped memory, however often a video is decoded or given up."""
    counts = []
    for _ in range(4):
        outcomes(pool, [video(GOOD), video(b"no video")] * 5)
        for _, frames in pool.decode([video(GOOD)] * 3, OPTIONS):
            next(frames)
        outcomes(pool, [video(GOOD)] * 4)
        maps = Path("/proc/self/maps").read_text().count("memfd:vidtok")
        counts.append((len(os.listdir("/proc/self/fd")), maps))
    assert counts[-1][0] <= counts[0][0] + 4 and counts[-1][1] <= counts[0][1] + 4, counts


def long_video(minutes: int) -> bytes:
    """Small, and of few bytes a frame."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "40"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(pixels, "rgb24") for pixels in gradient_frames(22, 64, 64)]
        for number in range(minutes * 600):
            frame = pictures[number // 10 % 22]
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return sink.getvalue()


@pytest.mark.parametrize("minutes", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_a_long_video_never_stands_in_memory_whole(minutes: int) -> None:
    """At 256x256 two hours of frames are 14 GB; the worker and its decoder take less than 150 MiB for them."""
    data = long_video(minutes)
    with closing(DecoderPool(1, LIMITS)) as pool:
        assert len(outcomes(pool, [video(GOOD)])[0]) == 20
        before = peak = resident_bytes()
        count, seconds = 0, 0.0
        for _, frames in pool.decode([video(data)], DecodeOptions(size=256)):
            for frame in frames:
                count, seconds = count + 1, frame.seconds
                if count % 100 == 0:
                    peak = max(peak, resident_bytes())
        assert count == minutes * 600 and seconds == pytest.approx(minutes * 60 - 0.1)
    assert peak - before < 150 * 2**20, f"{(peak - before) / 2**20:.0f} MiB"


def test_frames_that_are_kept_stay_as_they_are(pool: DecoderPool) -> None:
    """They are the decoder's windows, not copies; and a decoder goes on while they are kept."""
    long = make_video(gradient_frames(300, 256, 256))
    options = DecodeOptions(size=256)
    ((_, here),) = ((v, list(frames)) for v, frames in DecoderHere().decode([video(long)], options))
    kept: list[DecodedFrame] = []
    for _, frames in pool.decode([video(long), video(long)], options):
        kept += itertools.islice(frames, 290)
    assert same(kept[:290], here[:290]) and same(kept[290:], here[:290])
    decoders = pool._decoders._free
    windows = [len(decoder._windows._slabs) for decoder in decoders]
    assert sum(windows) >= len(kept) * here[0].pixels_HWC.nbytes // (4 * 2**20), "all of them are held"
    del kept
    for _, frames in pool.decode([video(long)] * 4, options):
        assert same(list(frames), here)
    assert [len(decoder._windows._slabs) for decoder in decoders] == windows, "and used again"


def test_a_decoder_that_stops_while_it_waits_is_ended(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it waits for the worker, which has given it all that it asked for."""
    long = make_video(gradient_frames(400, 256, 256))
    options = DecodeOptions(size=256)
    taken: list[Decoder] = []
    real = Decoders.take
    monkeypatch.setattr(Decoders, "take", lambda self, fresh: taken.append(real(self, fresh=fresh)) or taken[-1])
    given = pool.decode([video(long)], options)
    _, frames = next(given)
    first = next(frames)
    (decoder,) = taken
    ends = time.monotonic() + 30
    while not decoder.status.is_blocked and time.monotonic() < ends:
        time.sleep(0.01)
    os.kill(decoder.pid, signal.SIGSTOP)
    rest = list(frames)
    assert first.seconds == 0 and len(rest) == 399 and len(taken) == 2, "another one went on where it stopped"


def test_a_fork_server_that_stops_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decoding.decoder._FORK_SECONDS", 1.0)
    monkeypatch.setattr("pipeline.decoding.decoder._LAST_WORDS_SECONDS", 0.5)
    with closing(DecoderPool(1, LIMITS)) as pool:
        assert len(outcomes(pool, [video(GOOD)])[0]) == 20
        server = pool._decoders._server
        assert server is not None
        os.kill(server._process.pid, signal.SIGSTOP)
        os.kill(pool._decoders._free[0].pid, signal.SIGKILL)
        assert [len(found) for found in outcomes(pool, [video(GOOD), video(GOOD)])] == [20, 20]


def test_a_video_that_changes_its_size_in_the_middle(pool: DecoderPool) -> None:
    """Recordings of two sizes, one behind the other: no clip holds frames of both."""
    wide, high = (rgb_frames(pattern(12, *size), "yuv420p") for size in ((64, 96), (96, 64)))
    data = b"".join(encode(frames, codec="libx264", container="h264") for frames in (wide, high))
    options = DecodeOptions(size=32, crop="keep", factor=8)
    clips = list(
        cut_clips(
            pool.decode([video(data)], options),
            lengths=(8, 8),
            clips=ClipsConfig(size=32, crop="keep"),
            takes_stills=True,
        )
    )
    assert isinstance(clips[-1], VideoEnd) and clips[-1].reject is None
    found = [(clip.frames_THWC.shape, clip.num_padded_frames) for clip in clips if isinstance(clip, Clip)]
    assert found == [((8, 32, 48, 3), 0), ((8, 32, 48, 3), 4), ((8, 48, 32, 3), 0), ((8, 48, 32, 3), 4)]
    (frames,) = outcomes_with(pool, data, options)
    assert same(frames, next(iter(outcomes_with(DecoderHere(), data, options))))


def test_frames_that_grow_beyond_a_window(pool: DecoderPool) -> None:
    small, large = (rgb_frames(pattern(3, 1080, width), "yuv420p") for width in (1440, 1920))
    options = {"codec": "mpeg2video", "container": "mpegts", "options": {"b": "20M"}}
    data = encode(small, **options) + encode(large, **options)
    asked = DecodeOptions(size=1080, crop="keep", factor=8)
    (frames,) = outcomes_with(pool, data, asked)
    widths = [frame.pixels_HWC.shape[1] for frame in frames]
    assert widths == sorted(widths) and set(widths) == {1440, 1920}
    assert same(frames, outcomes_with(DecoderHere(), data, asked)[0])


def outcomes_with(decoder: Any, data: bytes, options: DecodeOptions) -> list[list[DecodedFrame]]:
    return [list(frames) for _, frames in decoder.decode([video(data)], options)]


def test_a_decoder_keeps_no_video_that_it_is_done_with() -> None:
    """Its memory is a file without a name, which lasts as long as somebody has it open."""
    with closing(DecoderPool(1, LIMITS)) as pool:
        counts = []
        for _ in range(5):
            outcomes(pool, [video(GOOD), video(b"no video"), video(GOOD)])
            (decoder,) = pool._decoders._free
            links = [os.readlink(path) for path in Path(f"/proc/{decoder.pid}/fd").iterdir()]
            counts.append(sum("memfd:vidtok" in link for link in links))
        # The page of its state and the windows; and the last video, where it is about to close it.
        assert max(counts) - min(counts) <= 2, counts
