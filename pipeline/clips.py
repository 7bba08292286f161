"""cut_clips: the frames of each video, as windows or as segments of a stream, of a fixed number of frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np

from pipeline.config import ClipsConfig
from pipeline.errors import SampleError
from pipeline.records import Clip, DecodedFrame, Reject, Video, VideoEnd, VideoRef
from pipeline.scenes import split_scenes

__all__ = ["cut_clips", "cut_video"]


# What keep_until_error keeps the beginning of; a limit or a filter says that the whole video is not wanted.
_DAMAGE = {"crash", "memory", "timeout", "truncated", "unreadable"}


def cut_clips(
    videos: Iterable[tuple[Video, Iterable[DecodedFrame]]],
    *,
    lengths: tuple[int, int],
    clips: ClipsConfig,
    takes_stills: bool,
) -> Iterator[Clip | VideoEnd]:
    """Yields the clips of every video, and after each video its end: whole, or rejected with the reason.

    Args:
        videos: with their frames.
        lengths: frames of a video's first clip, and of the others.
        clips: stride, tail, whether cuts of scenes count, and what becomes of a damaged video.
        takes_stills: whether a still picture is a clip of one frame, as causal models take it.
    """
    for video, decoded in videos:
        reject = video.reject
        flags: list[str] = []
        if reject is None:
            frames = _until_error(decoded, flags) if clips.damaged == "keep_until_error" else decoded
            try:
                yield from cut_video(frames, video.ref, lengths=lengths, clips=clips, takes_stills=takes_stills)
            except SampleError as error:
                reject = Reject(stage=error.stage, error=error.error, message=error.message, attempts=error.attempts)
        yield VideoEnd(ref=video.ref, reject=reject, end=video.end, flags=tuple(flags))


def _until_error(frames: Iterable[DecodedFrame], flags: list[str]) -> Iterator[DecodedFrame]:
    any_came = False
    try:
        for frame in frames:
            any_came = True
            yield frame
    except SampleError as error:
        if not any_came or error.error not in _DAMAGE:
            raise
        flags.append("partly_corrupt")


def cut_video(
    frames: Iterable[DecodedFrame], ref: VideoRef, *, lengths: tuple[int, int], clips: ClipsConfig, takes_stills: bool
) -> Iterator[Clip]:
    """Cuts one video into windows, which begin every `stride` frames; `lengths` are those of the first, and of others.

    With `scene_cuts: split` each scene is cut as if it were a video of its own, as are frames of another size. At most
    one window of frames stands in memory, and one frame more.

    Raises:
        SampleError: `too_short`, where `tail: drop` leaves nothing; `no_video`, for a still where none is taken.
    """
    total = 0

    def counted() -> Iterator[DecodedFrame]:
        nonlocal total
        for frame in frames:
            total += 1
            yield frame

    index = 0
    for scene in _scenes(counted(), clips):
        for number, (length, window) in enumerate(_windows(scene, lengths, clips)):
            if "still" in window[0].flags and not takes_stills:
                raise SampleError("clip", "no_video", "a still picture; only a causal model takes one frame alone")
            segment_index = number if clips.mode == "stream" else None
            yield _clip(window, ref, index, length, segment_index)
            index += 1
    if index == 0:
        count = f"{total} frames after sampling" + (", in scenes" if clips.scene_cuts == "split" else "")
        raise SampleError("clip", "too_short", f"{count}, a clip has {lengths[0]}, and tail: drop pads none")


def _scenes(frames: Iterable[DecodedFrame], clips: ClipsConfig) -> Iterator[Iterator[DecodedFrame]]:
    # With `crop: keep`, recordings of other sizes that were joined on are other scenes: a clip has one size.
    for _, frames_of_one_size in groupby(frames, key=lambda frame: frame.pixels_HWC.shape):
        if clips.scene_cuts == "split":
            yield from split_scenes(frames_of_one_size)
        else:
            yield frames_of_one_size


def _windows(
    frames: Iterable[DecodedFrame], lengths: tuple[int, int], clips: ClipsConfig
) -> Iterator[tuple[int, list[DecodedFrame]]]:
    """The windows of frames that follow each other, and their lengths; one that is to be padded holds fewer frames.

    A tail is padded only where it holds a frame that no whole window held.
    """
    length, later_length = lengths
    window: deque[DecodedFrame] = deque(maxlen=later_length)
    waiting = length  # frames until the next window is whole
    fresh = 0  # frames in the window that no clip held yet
    for frame in frames:
        if "still" in frame.flags:
            yield 1, [frame]
            return
        window.append(frame)
        fresh += 1
        waiting -= 1
        if waiting == 0:
            yield length, list(window)
            length = later_length
            waiting, fresh = clips.stride or length, 0
    if fresh and clips.tail == "pad":
        # The window that began with the stride holds what is left: `waiting` frames are missing at its end.
        yield length, list(window)[-(length - waiting) :]


def _clip(frames: list[DecodedFrame], ref: VideoRef, index: int, clip_frames: int, segment_index: int | None) -> Clip:
    missing = clip_frames - len(frames)
    seconds = [frame.seconds for frame in frames]
    # A frame is shown until the next one; the last one for as long as the source's rate says.
    end = seconds[-1] + frames[-1].duration_seconds
    return Clip(
        ref=ref,
        source=frames[0].source,
        clip_index=index,
        frames_THWC=np.stack([frame.pixels_HWC for frame in frames] + [frames[-1].pixels_HWC] * missing),
        frame_seconds=np.array(seconds + seconds[-1:] * missing),
        duration_seconds=end - seconds[0],
        num_padded_frames=missing,
        flags=frames[-1].flags,
        segment_index=segment_index,
    )
