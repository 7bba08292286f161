"""What a decoder is asked for: plain values, since a decoder imports as little as it can."""

from dataclasses import dataclass

__all__ = ["DecodeOptions"]


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode one video.

    Attributes:
        fps: frames a second to take, by presentation time; None: see `every`.
        every: take every n-th frame; None: see `nearest_fps`.
        nearest_fps: take every n-th frame, n the whole number that comes nearest to so many a second; None: every
            frame. This is how the published evaluation samples.
        size: pixels of the result's shorter side (of its longer one, with `crop: pad`); None: as it is stored, only
            turned upright.
        crop: center (the middle square), pad (the whole, on a black square) or keep (the whole, cropped to `factor`).
        factor: of what the sides are multiples, with `crop: keep`.
        start_seconds: frames from this time on, counted from the video's first frame; None: from that.
        end_seconds: frames before this time; None: to its last.
        max_pixels: of a frame.
        max_seconds: of the video, by its container, and of the frames that are taken.
        max_frames: frames that may come out of the decoder.
        min_seconds: shorter videos are filtered, by their container.
        longest_seconds: longer videos are filtered, by their container.
        min_fps: slower videos are filtered.
        max_fps: faster videos are filtered.
        min_size: videos with a shorter side below this are filtered.
        codecs: videos in other codecs are filtered; None: any.
        threads: of the decoder.
    """

    fps: float | None = None
    every: int | None = None
    nearest_fps: float | None = None
    size: int | None
    crop: str = "center"
    factor: int = 1
    start_seconds: float | None = None
    end_seconds: float | None = None
    max_pixels: int = 2**27
    max_seconds: float = 86_400.0
    max_frames: int = 10_000_000
    min_seconds: float | None = None
    longest_seconds: float | None = None
    min_fps: float | None = None
    max_fps: float | None = None
    min_size: int | None = None
    codecs: tuple[str, ...] | None = None
    threads: int = 1
