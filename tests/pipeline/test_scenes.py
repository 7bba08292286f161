"""Hard cuts are found where they are, and what only looks like one mostly is not taken for one."""

import bisect
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.records import DecodedFrame, SourceInfo
from pipeline.scenes import split_scenes
from tests.media import make_video
from tests.support import ROOT

SOURCE = SourceInfo(width=4, height=4, fps=25.0, codec="h264")
# First frames of scenes, found by eye, in the clips beside the checkout; the others have one scene each.
REAL_CUTS = {"bikes.mp4": [30, 76, 137, 187, 242], "cityCC0.mpg": [116]}
UNCUT = ["b.mp4", "bigbuckbunny.mp4", "box.mp4", "carphone_pristine.mp4", "tree.avi", "world.mp4"]


def as_frames(pixels_THWC: np.ndarray) -> list[DecodedFrame]:
    return [
        DecodedFrame(pixels_HWC=pixels, seconds=number / 25, duration_seconds=1 / 25, source=SOURCE, flags=())
        for number, pixels in enumerate(pixels_THWC)
    ]


def cuts(frames: Sequence[DecodedFrame]) -> list[int]:
    """The number of the first frame of each scene but the first."""
    scenes = [list(scene) for scene in split_scenes(frames)]
    assert [frame for scene in scenes for frame in scene] == list(frames), "each frame once, in order"
    return list(itertools.accumulate(len(scene) for scene in scenes[:-1]))


def decode(data: bytes, **options: object) -> list[DecodedFrame]:
    return list(decode_frames(io.BytesIO(data), len(data), DecodeOptions(**{"size": 256, **options})))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bunny() -> np.ndarray:
    """Real frames, 720x720: an animal that moves, every 5th of 25 a second."""
    data = (ROOT / "jobs/clips/bigbuckbunny.mp4").read_bytes()
    return np.stack([frame.pixels_HWC for frame in decode(data, size=720, every=5)])


@pytest.fixture(scope="module")
def city() -> np.ndarray:
    """Real frames, 256x256, of the two scenes of one video: 116 and 74."""
    return np.stack([frame.pixels_HWC for frame in decode((ROOT / "jobs/clips/cityCC0.mpg").read_bytes())])


def panned(picture_HWC: np.ndarray, count: int, step: int) -> np.ndarray:
    """A camera of 256x256 that moves over a picture by `step` pixels a frame, to and fro."""
    room = picture_HWC.shape[1] - 256
    places = [room - abs(room - step * number % (2 * room)) for number in range(count)]
    return np.stack([picture_HWC[200:456, place : place + 256] for place in places])


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([9], []),
        ([4, 5], [4]),
        ([2, 2, 2], [2, 4]),
        ([1, 4], [1]),
        ([4, 1], [4]),
        ([1, 1], [1]),
        ([3, 1, 3], [3, 4]),  # one frame that is unlike both sides
        ([1], []),
        ([], []),
    ],
)
def test_cuts_are_where_they_are(city: np.ndarray, bunny: np.ndarray, lengths: list[int], expected: list[int]) -> None:
    scenes = [city[:9], city[116:125], bunny[:9, ::2, ::2][:, 52:308, 52:308]]
    pieces = [scene[:length] for scene, length in zip(scenes, lengths, strict=False)]
    assert cuts(as_frames(np.concatenate(pieces) if pieces else city[:0])) == expected


@pytest.mark.parametrize(("frames_THWC", "expected"), [((90, 160), [116]), ((33, 47), [116]), ((512, 512), [116])])
def test_any_size(city: np.ndarray, frames_THWC: tuple[int, int], expected: list[int]) -> None:
    rows, columns = (np.arange(side) * 256 // side for side in frames_THWC)
    assert cuts(as_frames(city[:, rows[:, None], columns])) == expected


def test_bars_hide_no_cut(bunny: np.ndarray, city: np.ndarray) -> None:
    def padded(frames_THWC: np.ndarray) -> np.ndarray:
        canvas = np.zeros((len(frames_THWC), 256, 256, 3), np.uint8)
        canvas[:, 56:200] = frames_THWC[:, np.arange(144) * 256 // 144]
        return canvas

    assert cuts(as_frames(padded(city))) == [116]


def faded(frames_THWC: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return (frames_THWC * factors[:, None, None, None]).round().astype(np.uint8)


WHITE = np.full((1, 256, 256, 3), 250, np.uint8)


def test_what_the_docs_say_is_no_cut(city: np.ndarray, bunny: np.ndarray) -> None:
    still = np.repeat(city[:1], 50, axis=0)
    other = np.repeat(city[130:131], 50, axis=0)
    dissolve = np.linspace(1, 0, 50)
    levels = np.array([40, 100, 160, 220] * 3)
    covered = city[:40].copy()
    covered[20:, 10:120, 10:120] = 250
    for name, frames in {
        "a flash": np.concatenate([city[:20], WHITE, city[20:40]]),
        "three flashes": np.concatenate([city[:20], WHITE, city[20:22], WHITE, city[22:24], WHITE, city[24:40]]),
        "a slow pan": panned(bunny[0], 60, 8),
        "a fast pan, an eighth of its width a frame": panned(bunny[0], 60, 32),
        "a fade to black": faded(still, np.linspace(1, 0, 50)),
        "a fade from black": faded(still, np.linspace(0, 1, 50)),
        "a dissolve": faded(still, dissolve) + faded(other, 1 - dissolve),
        "an animal at 5 frames a second": bunny,
        "something in a fifth of the frame": covered,
        "motion that changes each frame as much": (WHITE // 250 * levels[:, None, None, None]).astype(np.uint8),
    }.items():
        assert cuts(as_frames(frames)) == [], name


def test_what_the_docs_say_passes_for_cuts(city: np.ndarray) -> None:
    still = np.repeat(city[:1], 20, axis=0)
    for name, frames, expected in [
        ("a flash of two frames", np.concatenate([city[:20], WHITE, WHITE, city[20:40]]), [20, 22]),
        ("a fade within a frame", faded(still, np.repeat([1, 0.4, 0], [9, 1, 10])), [9, 10]),
    ]:
        assert cuts(as_frames(frames)) == expected, name


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=6))
def test_one_frame_is_looked_at_ahead(lengths: list[int]) -> None:
    colours = np.repeat([(40 + 60 * number) % 240 for number in range(len(lengths))], lengths)
    frames = as_frames(np.broadcast_to(colours[:, None, None, None], (len(colours), 8, 8, 3)).astype(np.uint8))
    read: list[DecodedFrame] = []

    def feed() -> Iterator[DecodedFrame]:
        for frame in frames:
            read.append(frame)
            yield frame

    passed: list[DecodedFrame] = []
    for scene, length in zip(split_scenes(feed()), lengths, strict=True):
        first = len(passed)
        for frame in scene:
            passed.append(frame)
            assert len(read) <= len(passed) + 1
        assert len(passed) - first == length
    assert passed == frames


RATES: dict[str, dict[str, object]] = {"every frame": {}, "fps 8": {"fps": 8}, "fps 2": {"fps": 2}}


def measure(frames: Sequence[DecodedFrame], cut_seconds: Sequence[float]) -> np.ndarray:
    """How many cuts lie between the frames, how many of them are found exactly, and how many are found besides."""
    seconds = [frame.seconds for frame in frames]
    there = {bisect.bisect_left(seconds, cut - 1e-3) for cut in cut_seconds} - {len(seconds)}
    found = set(cuts(frames))
    return np.array([len(there), len(there & found), len(found - there)])


def joined(folder: Path) -> tuple[bytes, list[float]]:
    """A video at 25 frames a second of 200 pieces of real scenes, of 1 to 3 s where they are as long, and its cuts."""
    scenes = []
    for name in [*UNCUT[1:], *REAL_CUTS]:  # b.mp4 shows what world.mp4 does
        frames = decode((folder / name).read_bytes())
        for first, end in itertools.pairwise([0, *REAL_CUTS.get(name, []), len(frames)]):
            seconds = [frame.seconds for frame in frames[first:end]]
            ticks = np.arange(seconds[0], seconds[-1] + 1e-6, 1 / 25)  # the frame that is shown at each
            scenes.append([frames[first + bisect.bisect_right(seconds, tick + 1e-3) - 1] for tick in ticks])
    random = np.random.default_rng(0)
    pieces: list[np.ndarray] = []
    last = 0
    for _ in range(200):
        last = (last + int(random.integers(1, len(scenes)))) % len(scenes)  # another one
        scene = scenes[last]
        length = min(len(scene), int(random.integers(25, 76)))
        start = int(random.integers(0, len(scene) - length + 1))
        pieces.append(np.stack([frame.pixels_HWC for frame in scene[start : start + length]]))
    borders = itertools.accumulate(len(piece) for piece in pieces[:-1])
    return make_video(np.concatenate(pieces), fps=25, crf=23), [border / 25 for border in borders]


@pytest.mark.slow
def test_measured_on_joined_scenes(shared_videos: Path) -> None:
    """The figures of ARCHITECTURE.md: `pytest -s -m slow tests/pipeline/test_scenes.py` prints them."""
    data, cut_seconds = joined(shared_videos)
    for name, least, most_false in [("every frame", 1.0, 0), ("fps 8", 0.99, 25), ("fps 2", 0.95, 30)]:
        frames = decode(data, **RATES[name])
        there, found, false = measure(frames, cut_seconds)
        print(f"joined scenes, {name}: {found} of {there} cuts, and {false} more, in {len(frames)} frames")
        assert there > 150 and found >= least * there and false <= most_false


@pytest.mark.slow
def test_measured_on_real_clips(shared_videos: Path) -> None:
    for rate_name, most_false in [("every frame", 0), ("fps 8", 2), ("fps 2", 3)]:
        for clips, is_calm in ((UNCUT, True), (list(REAL_CUTS), False)):  # close to bikes.mp4's camera things pass
            total = np.zeros(4, int)
            for name in clips:
                data = (shared_videos / name).read_bytes()
                seconds = [frame.seconds for frame in decode(data, size=32)]
                frames = decode(data, **RATES[rate_name])
                total += [len(frames), *measure(frames, [seconds[cut] for cut in REAL_CUTS.get(name, [])])]
            num_frames, there, found, false = total
            what = f"{', '.join(clips)}, {rate_name}"
            print(f"{what}: {found} of {there} cuts, and {false} more, in {num_frames} frames")
            assert found == there and false <= (0 if is_calm else most_false), what
