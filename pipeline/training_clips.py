"""Clips to train on: random windows of the videos, decoded by the pipeline's decoders."""

import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.decoding.container import duration_of, opened_video, rate_of
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.errors import ConfigError, SampleError
from pipeline.records import DecodedFrame, Frames, Position, Reject, Video, VideoRef
from pipeline.training_videos import TrainingVideos
from pipeline.video_config import Section

__all__ = ["TrainingClips", "TrainingClipsConfig"]

log = logging.getLogger(__name__)

# Other videos to try where one cannot be decoded; each is far from the one before in an index sorted by path.
_TRIES, _STEPS = 20, (7919, 7907)


class TrainingClipsConfig(Section):
    """Which frames of a video make a clip to train on."""

    num_frames: int = Field(default=17, gt=0, description="Frames of a clip.")
    fps: float | None = Field(
        default=3, gt=0, description="Frames a second, by presentation time; null: all there are. Few teach motion."
    )
    size: int = Field(default=128, gt=0, description="Pixels of a clip's square.")
    resize: Annotated[int, Field(gt=0)] | Literal["keep"] | None = Field(
        default=None,
        description="Pixels that the shorter side is resized to before the crop; null: `size`; keep: as it is stored, "
        "where that is no smaller than `size`.",
    )
    crop: Literal["center", "random"] = Field(default="center", description="Which square of the frame.")
    flip: bool = Field(default=False, description="Mirror half of the clips, by chance.")
    cache: bool = Field(
        default=False,
        description="Keep all videos decoded in memory, for sets of some minutes: a clip then costs no decoding.",
    )


class TrainingClips:
    """Gives the clip of each sample's number: always the same, whoever asks, in whichever order."""

    def __init__(self, videos: TrainingVideos, config: TrainingClipsConfig, *, seed: int, num_decoders: int) -> None:
        """Starts nothing yet.

        Args:
            videos: to choose from.
            config: how to cut them.
            seed: of order, windows, crops and flips.
            num_decoders: processes that decode, a video each.
        """
        self._videos = videos
        self._config = config
        self._seed = seed
        self._pool = DecoderPool(num_decoders, DecoderLimits())
        self._spare_pool = DecoderPool(1, DecoderLimits())  # for what stands in for a video that cannot be decoded
        resize = None if config.resize == "keep" else config.resize or config.size
        self._options = DecodeOptions(
            fps=config.fps, size=resize, crop="keep", min_size=None if resize else config.size
        )
        self._cached: dict[int, Frames] = {}
        self._warned: set[int] = set()
        # With a prime that does not divide their number, no video is tried twice before all were.
        self._step = next((step for step in _STEPS if len(videos.places) % step), 1)

    def clips(self, numbers: Sequence[int]) -> Iterator[Frames]:
        """Yields a clip for each sample's number: uint8 (num_frames, size, size, 3).

        A window that goes beyond a video's end is filled up with its last frame. A video that cannot be decoded is
        replaced by another, always the same one; there is one warning of it.

        Raises:
            ConfigError: none of many videos can be decoded.
            StorageError: the store failed.
        """
        if self._config.cache:
            for number in numbers:
                yield self._windowed(self._stood_in(number, self._whole), number)
            return
        asked = (self._video(self._videos.at(number, self._seed), number) for number in numbers)
        for number, (video, frames) in zip(numbers, self._pool.decode(asked, self._options), strict=True):
            yield self._finished(self._taken(video, frames, number), number)

    def close(self) -> None:
        """Ends the decoders."""
        self._pool.close()
        self._spare_pool.close()

    def _taken(self, video: Video, frames: Iterator[DecodedFrame], number: int) -> Frames:
        """The first frames of a span; of another video where it has none."""
        try:
            return self._first(video, frames)
        except SampleError as error:
            self._warn(self._videos.at(number, self._seed), error)
        return self._stood_in(number, lambda place: self._alone(self._video(place, number)), tried=1)

    def _stood_in(self, number: int, take: Callable[[int], Frames], *, tried: int = 0) -> Frames:
        """What `take` gives of a sample's video, or of the first of others that can be decoded."""
        for attempt in range(tried, _TRIES):
            place = (self._videos.at(number, self._seed) + attempt * self._step) % len(self._videos.places)
            try:
                return take(place)
            except SampleError as error:
                self._warn(place, error)
        raise ConfigError(f"{_TRIES} videos that were tried one after the other cannot be decoded")

    def _warn(self, place: int, error: SampleError) -> None:
        if place in self._warned:
            return
        self._warned.add(place)
        log.warning("%s: %s; another video stands in for it", self._videos.places[place].path, error)

    def _alone(self, video: Video, most: int | None = None) -> Frames:
        decoded = self._spare_pool.decode(iter([video]), self._options)
        return self._first(*next(decoded), most=most)  # `decoded` lives as long as its frames are asked for

    def _first(self, video: Video, frames: Iterator[DecodedFrame], *, most: int | None = None) -> Frames:
        if video.reject is not None:
            raise SampleError(video.reject.stage, video.reject.error, video.reject.message)
        taken = [frame.pixels_HWC for frame in islice(frames, most or self._config.num_frames)]
        if len({pixels_HWC.shape for pixels_HWC in taken}) != 1:
            raise SampleError("decode", "unreadable", "its frames change their size")
        return np.stack(taken)

    def _video(self, place: int, number: int) -> Video:
        """A video with a random span of it."""
        where = self._videos.places[place].path
        ref = VideoRef(shard_id=where, source_shard=where, key=str(place), occurrence=0, size_bytes=0)
        end = Position(sample=0, offset=None)
        try:
            data = self._videos.read(place)
            seconds, rate = _length(data)
        except SampleError as error:
            reject = Reject(stage=error.stage, error=error.error, message=error.message)
            return Video(ref=ref, data=b"", reject=reject, end=end)
        wanted = self._config.num_frames / min(self._config.fps or rate, rate)
        room = max(0, math.floor((seconds - wanted) * rate + 1e-6))
        start = int(self._draw(number, 0).integers(room + 1)) / rate  # a frame's time, where the rate is constant
        return Video(ref=ref, data=data, end=end, span=(start, None))

    def _whole(self, place: int) -> Frames:
        """All frames of a video, from the cache."""
        if place not in self._cached:
            where = self._videos.places[place].path
            ref = VideoRef(shard_id=where, source_shard=where, key=str(place), occurrence=0, size_bytes=0)
            video = Video(ref=ref, data=self._videos.read(place), end=Position(sample=0, offset=None))
            self._cached[place] = self._alone(video, self._options.max_frames)
        return self._cached[place]

    def _windowed(self, frames_THWC: Frames, number: int) -> Frames:
        room = max(0, len(frames_THWC) - self._config.num_frames)
        start = int(self._draw(number, 0).integers(room + 1))
        return self._finished(frames_THWC[start : start + self._config.num_frames], number)

    def _finished(self, frames_THWC: Frames, number: int) -> Frames:
        """Filled up, cropped and flipped."""
        size, draw = self._config.size, self._draw(number, 1)
        missing = self._config.num_frames - len(frames_THWC)
        filled = np.concatenate([frames_THWC, np.repeat(frames_THWC[-1:], missing, axis=0)])
        room = np.array(filled.shape[1:3]) - size
        top, left = draw.integers(room + 1) if self._config.crop == "random" else np.round(room / 2).astype(int)
        cropped = filled[:, top : top + size, left : left + size]
        if self._config.flip and draw.integers(2):
            cropped = cropped[:, :, ::-1]
        return np.ascontiguousarray(cropped)

    def _draw(self, number: int, what: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number, what])


def _length(data: bytes) -> tuple[float, float]:
    """Seconds and frames a second of a video, by its container."""
    options = DecodeOptions(size=None)
    with opened_video(io.BytesIO(data), len(data), options) as (container, stream):
        return duration_of(container, stream) or 0.0, float(rate_of(stream)) or 25.0
