"""What flows between the stages. One word for each thing; the flow itself is in flow.py."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "Batch",
    "Clip",
    "DecodedFrame",
    "EncodedClip",
    "Part",
    "Position",
    "Reject",
    "Shard",
    "SourceInfo",
    "Video",
    "VideoEnd",
    "VideoRange",
    "VideoRef",
]

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place between two samples of a shard, where reading can begin.

    Attributes:
        sample: how many samples lie before it.
        offset: its byte offset in the tar; None in a compressed tar, which can only be read from its start, and in a
            list of videos.
    """

    sample: int
    offset: int | None


@dataclass(frozen=True, kw_only=True)
class VideoRange:
    """Rows of a list of videos (see video_lists.py).

    Attributes:
        path: the list's, below the dataset's root.
        first: number of the first row.
        count: how many.
    """

    path: str
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One input tar, or a slice of a list of videos.

    Attributes:
        shard_id: readable, unique in the input, safe as a file name.
        path: relative to the input's root: the tar's path, the manifest's, or "." where the videos are files.
        size_bytes: its size when it was listed; 0 where that is not known.
        etag: what its store calls its content, or None.
        videos: where its videos are listed, or None for a tar.
        only: of a supplementary shard, the videos that it tries again, by key and occurrence; None: all.
    """

    shard_id: str
    path: str
    size_bytes: int
    etag: str | None
    videos: VideoRange | None = None
    only: tuple[tuple[str, int], ...] | None = None

    @property
    def beginning(self) -> Position:
        """Where reading it begins."""
        return Position(sample=0, offset=0 if self.path.endswith(".tar") else None)


@dataclass(frozen=True, kw_only=True)
class VideoRef:
    """Which video it is.

    Attributes:
        shard_id: its shard.
        source_shard: the shard's path relative to the input's root.
        key: its sample's key.
        occurrence: how many videos of the same key came before it in the shard.
        size_bytes: size of the encoded video.
        text: the sample's text and JSON members by extension.
    """

    shard_id: str
    source_shard: str
    key: str
    occurrence: int
    size_bytes: int
    text: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Why a video gives no rows, and how often it was tried."""

    stage: str
    error: str
    message: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video as it was read.

    Attributes:
        ref: which one.
        data: the encoded video; empty where it could not be read.
        reject: set where reading it failed.
        end: the place after its sample, or None where more videos of the same sample follow.
        span: the seconds from the video's first frame between which it is wanted; None: from its beginning, to its end.
        spans_left: how many of the videos that follow are other spans of the same data.
    """

    ref: VideoRef
    data: bytes
    reject: Reject | None = None
    end: Position | None
    span: tuple[float | None, float | None] = (None, None)
    spans_left: int = 0


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What the container says of a video: pixels, frames a second (0 where it does not say), codec."""

    width: int
    height: int
    fps: float
    codec: str


@dataclass(frozen=True, kw_only=True)
class DecodedFrame:
    """One frame of a video: sampled, upright, resized and cropped.

    Attributes:
        pixels_HWC: uint8 RGB.
        seconds: presentation time from the video's first frame.
        duration_seconds: how long it is shown, by the source's rate (0 where that is not known).
        source: the video's size, rate and codec.
        flags: what was unusual up to this frame.
    """

    pixels_HWC: Frames
    seconds: float
    duration_seconds: float
    source: SourceInfo
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A window of frames of one video, or a segment of its stream.

    Attributes:
        ref: the video.
        source: its size, rate and codec.
        clip_index: its number in the video, from 0.
        frames_THWC: uint8 RGB, padded at the end to the clip's length.
        frame_seconds: presentation time of each frame from the video's first, repeated where padded.
        duration_seconds: from the first frame's time to the end of the last real one.
        num_padded_frames: how many frames at the end repeat the last real one.
        flags: what was unusual.
        segment_index: its number in its stream, from 0; None: it is encoded by itself.
    """

    ref: VideoRef
    source: SourceInfo
    clip_index: int
    frames_THWC: Frames
    frame_seconds: npt.NDArray[np.float64]
    duration_seconds: float
    num_padded_frames: int
    flags: tuple[str, ...]
    segment_index: int | None = None

    def without_frames(self) -> "Clip":
        """The clip with black frames that take no memory: a row needs their shape alone."""
        return replace(self, frames_THWC=np.broadcast_to(np.uint8(0), self.frames_THWC.shape))


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """What the encoder made of one clip.

    Attributes:
        tokens_THW: int32 codebook indices; None for a KL model.
        latents_CTHW: float32 posterior mean; None for an FSQ model.
        logvar_CTHW: float32 posterior log-variance; None for an FSQ model.
    """

    tokens_THW: npt.NDArray[np.int32] | None = None
    latents_CTHW: npt.NDArray[np.float32] | None = None
    logvar_CTHW: npt.NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(
            array.nbytes for array in (self.tokens_THW, self.latents_CTHW, self.logvar_CTHW) if array is not None
        )


@dataclass(frozen=True, kw_only=True)
class VideoEnd:
    """Follows a video's clips. With a reject, the clips that came before it are dropped; flags are for all of them."""

    ref: VideoRef
    reject: Reject | None
    end: Position | None
    flags: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Batch:
    """Clips of one size to encode at once, and what else happened up to here.

    Attributes:
        clips: at most batch_size clips; none where only ends are carried.
        ends: videos that ended since the batch before.
        closes_part: whether the part ends here. All its clips are in batches up to this one.
    """

    clips: list[Clip]
    ends: list[VideoEnd]
    closes_part: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows and rejects of a range of samples, before they are written.

    Attributes:
        rows: one mapping of column to value for each clip, in the order of the videos.
        rejects: one mapping of column to value for each rejected video.
        num_videos: input videos in the range.
        video_bytes: their encoded size.
        end: the place after the last one.
    """

    rows: list[dict[str, object]]
    rejects: list[dict[str, object]]
    num_videos: int
    video_bytes: int
    end: Position
