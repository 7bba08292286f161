"""The part of a job file that says what is asked of a video: which are wanted, and how one becomes clips."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ClipsConfig", "FilterConfig", "LimitsConfig", "Section"]


class Section(BaseModel):
    """Keys of a job file that belong together; unknown ones are errors."""

    # Defaults too: 60 and 60.0 must not be two plans.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class ClipsConfig(Section):
    """How a video becomes clips."""

    mode: Literal["windows", "stream"] = Field(
        default="windows",
        description="windows: each clip is encoded by itself; stream: clips are segments of one continuous stream a "
        "video, so that their latents join to those of the whole video (models of version 1.1 only).",
    )
    segment_frames: int = Field(
        default=64,
        gt=0,
        description="Of mode: stream. Frames of a segment, a multiple of the model's time factor f; the first one of a "
        "video holds f - 1 fewer, since its first frame is a latent by itself. It bounds the memory, and fills a GPU "
        "in place of batch_size.",
    )
    fps: float | None = Field(
        default=None,
        ge=0.001,
        description="Frames a second to take, by presentation time; never above the source's own.",
    )
    every: int | None = Field(default=None, gt=0, description="Take every n-th frame, in place of fps.")
    num_frames: int | None = Field(
        default=None, gt=0, description="Frames of a clip; null: the model's own (clip_frames)."
    )
    size: int = Field(default=256, gt=0, description="Pixels: the shorter side is resized to it, then cropped square.")
    crop: Literal["center", "pad", "keep"] = Field(
        default="center",
        description="center: the middle square; pad: all, on a black square of `size`; keep: all, at its own shape, "
        "cropped to the multiples that the model takes, and batched with clips of the same shape.",
    )
    stride: int | None = Field(
        default=None, gt=0, description="Frames from one clip's start to the next's; null: clips do not overlap."
    )
    tail: Literal["pad", "drop"] = Field(
        default="pad", description="Frames left at the end: pad them with copies of the last one, or drop them."
    )
    scene_cuts: Literal["ignore", "split"] = Field(
        default="ignore",
        description="split: no clip goes across a hard cut; each scene is cut into clips like a video, and has a tail "
        "of its own.",
    )
    stills: Literal["encode", "reject"] = Field(
        default="encode",
        description="Pictures without a video beside them: clips of one frame with the flag still (causal models "
        "only), or rejects.",
    )
    damaged: Literal["reject", "keep_until_error"] = Field(
        default="reject",
        description="A video that breaks off in the middle: reject it, or keep what came before, with the flag "
        "partly_corrupt.",
    )

    @model_validator(mode="after")
    def _check(self) -> "ClipsConfig":
        if self.fps is not None and self.every is not None:
            raise ValueError(f"fps: {self.fps} and every: {self.every} exclude each other; give one")
        for name in ("num_frames", "stride"):
            if self.mode == "stream" and getattr(self, name) is not None:
                raise ValueError(f"{name}: {getattr(self, name)} goes with mode: windows; a stream has segment_frames")
        return self


class LimitsConfig(Section):
    """What a video may ask of a worker at most; more is a reject of the class `limit`, before the work is done."""

    video_bytes: int = Field(default=4 * 2**30, gt=0, description="Of the encoded video; more is not even read.")
    seconds: float = Field(default=6 * 3600, gt=0, description="Of the video, by its container and its frames' times.")
    pixels: int = Field(default=2**26, gt=0, description="Of a frame.")
    frames: int = Field(default=2_000_000, gt=0, description="Frames that come out of the decoder.")


class FilterConfig(Section):
    """Which videos are wanted, by what their containers say; others are rejects of the class `filtered`."""

    min_seconds: float | None = Field(default=None, ge=0, description="Shorter videos are not wanted.")
    max_seconds: float | None = Field(default=None, gt=0, description="Longer videos are not wanted.")
    min_fps: float | None = Field(default=None, gt=0, description="Slower videos are not wanted.")
    max_fps: float | None = Field(default=None, gt=0, description="Faster videos are not wanted.")
    min_size: int | None = Field(default=None, gt=0, description="Videos with a shorter side below it are not wanted.")
    codecs: list[str] | None = Field(
        default=None, min_length=1, description="FFmpeg's names (h264, hevc, vp9, av1 ...); others are not wanted."
    )
