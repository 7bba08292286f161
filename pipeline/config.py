"""The job file, as types: what a person may write.

`vidtok config --schema` prints these models, so each field says what it means and in which unit.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.decoding.options import DecodeOptions
from pipeline.input_config import InputConfig
from pipeline.model_config import ModelConfig
from pipeline.secrets import storable
from pipeline.storage import absolute_url, why_not_writable
from pipeline.video_config import ClipsConfig, FilterConfig, LimitsConfig, Section
from vidtok_model import TokenizerConfig

__all__ = [
    "BudgetConfig",
    "ClipsConfig",
    "ExecutorConfig",
    "FilterConfig",
    "InputConfig",
    "JobConfig",
    "JobDraft",
    "LimitsConfig",
    "ModelConfig",
    "RowsConfig",
    "StorageConfig",
    "StoreConfig",
]


class ExecutorConfig(Section):
    """Where the work runs. Nothing here changes what is written."""

    kind: Literal["ray", "inline"] = Field(
        default="ray", description="ray: actors on a cluster, or on this machine; inline: in this process, to debug."
    )
    address: str | None = Field(
        default=None, description="Ray's address; null: RAY_ADDRESS, else the cluster of this machine, else a new one."
    )
    num_workers: int = Field(default=1, gt=0, description="Workers at most; each does one shard at a time.")
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of a worker, fractions too; null: 1 where the cluster has GPUs as the job starts, else 0. "
        "On a cluster that grows from none, say 1.",
    )
    cpus_per_worker: float = Field(
        default=1, gt=0, description="CPU cores of a worker; on a CPU also the encoder's threads, rounded down to >= 1."
    )
    batch_size: int | None = Field(
        default=None,
        gt=0,
        description="Clips encoded at once; the last batch of a part is padded. null: on a GPU as many as its memory "
        "holds; 1 on a CPU, and of a stream.",
    )
    compile: bool | None = Field(
        default=None,
        description="Whether torch.compile makes the encoder's kernels; null: on a GPU, but not with clips.mode: "
        "stream or clips.crop: keep, of which every segment or size would be compiled anew.",
    )
    max_attempts: int = Field(default=3, gt=0, description="How often a shard is tried before it counts as failed.")
    decoders: int | None = Field(
        default=None,
        ge=0,
        description="Decoding processes of a worker, a video each; null: one a core; 0: none, the worker itself "
        "decodes (to debug: then a video that hangs or crashes takes the worker with it).",
    )
    decoder_memory_bytes: int = Field(default=2 * 2**30, gt=2**27, description="Memory that a decoder may take.")
    hung_seconds: float | None = Field(
        default=3600,
        gt=0,
        description="A Ray worker that counts no further video or clip for so long is ended; null: never.",
    )
    stall_seconds: float = Field(
        default=60, gt=0, description="A decoder that reads no byte and gives no frame for so long is ended."
    )
    decode_seconds: float = Field(
        default=120, gt=0, description="What decoding any video may take, in seconds; its duration times 20 is added."
    )

    @property
    def threads(self) -> int:
        """Threads of the encoder on a CPU."""
        return max(1, int(self.cpus_per_worker))

    @property
    def num_decoders(self) -> int:
        """Decoding processes of a worker."""
        return self.threads if self.decoders is None else self.decoders


class RowsConfig(Section):
    """What a row holds, and how rows are packed into parts."""

    logvar: bool = Field(default=False, description="KL models: store the posterior's log-variance too.")
    part_bytes: int = Field(
        default=64 * 2**20,
        gt=0,
        le=256 * 2**20,
        description="A part is closed at the first video boundary after this much payload (at most 256 MiB).",
    )


class BudgetConfig(Section):
    """When so much fails that the job is stopped; videos that it filters, or that are too short for it, aside."""

    rejects_in_a_row: int | None = Field(
        default=500, gt=0, description="Rejects of one worker, one after the other; null: any number."
    )
    share: float | None = Field(
        default=0.5, ge=0, lt=1, description="Share of the run's videos that may be rejected; null: any."
    )
    least_videos: int = Field(default=1000, gt=0, description="Before so many videos no share is looked at.")
    failed_shards_in_a_row: int | None = Field(
        default=20, gt=0, description="Shards given up one after the other, and none done between; null: any number."
    )


class StoreConfig(Section):
    """How to reach one store. Credentials belong in the environment (or a profile), never in a job file."""

    endpoint_url: str | None = Field(default=None, description="S3 endpoint, where it is not AWS.")
    anon: bool | None = Field(default=None, description="Read without credentials (public buckets).")
    region: str | None = Field(default=None, description="S3 region.")
    profile: str | None = Field(default=None, description="Profile of ~/.aws/credentials.")
    retry_seconds: float = Field(
        default=60, ge=0, description="How long a request that fails for a passing reason is sent again."
    )
    answer_seconds: float = Field(
        default=60, gt=0, description="How long an S3 server may be silent before a request counts as failed."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:  # anywhere: a password may hold a slash
            raise ValueError("user information in a URL would end up in logs; put credentials in the environment")
        if url is not None and "?" in url:
            raise ValueError("expected http://host:port or https://host, without a query, which would end up in logs")
        return url


class OutputStoreConfig(StoreConfig):
    """How to reach the store of the dataset."""

    allow_single_writer: bool = Field(
        default=False,
        description="Write to a store that cannot refuse a second write of a name. Two jobs at once on such an output "
        "can spoil it.",
    )


class StorageConfig(Section):
    """How to reach the stores, for each side."""

    input: StoreConfig = Field(default_factory=StoreConfig, description="The store of the shards and the checkpoint.")
    output: OutputStoreConfig = Field(default_factory=OutputStoreConfig, description="The store of the dataset.")


class JobConfig(Section):
    """One job: shards in, one dataset out."""

    input: InputConfig
    output: str = Field(min_length=1, description="The dataset's root: a folder, local or on any store.")
    model: ModelConfig
    clips: ClipsConfig = Field(default_factory=ClipsConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    filters: FilterConfig = Field(default_factory=FilterConfig)
    rows: RowsConfig = Field(default_factory=RowsConfig)
    executor: ExecutorConfig = Field(default_factory=ExecutorConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)

    @field_validator("output")
    @classmethod
    def _absolute(cls, output: str) -> str:
        if storable(output) != output:
            raise ValueError("a user or a signature in it would end up in logs; put credentials in the environment")
        return absolute_url(output)

    @property
    def is_stream(self) -> bool:
        """Whether clips are segments of one stream a video."""
        return self.clips.mode == "stream"

    @property
    def clip_frames(self) -> int:
        """Frames of a clip."""
        if self.is_stream:
            return self.clips.segment_frames
        return self.clips.num_frames or self.model.tokenizer_config().clip_frames

    @property
    def clip_lengths(self) -> tuple[int, int]:
        """Frames of a video's first clip, and of the others. A stream's first frame is a latent by itself."""
        fewer = self.model.tokenizer_config().time_factor - 1 if self.is_stream else 0
        return self.clip_frames - fewer, self.clip_frames

    def decode_options(self) -> DecodeOptions:
        """What decoders are asked for."""
        clips, limits, filters = self.clips, self.limits, self.filters
        return DecodeOptions(
            fps=clips.fps,
            every=clips.every,
            size=clips.size,
            crop=clips.crop,
            factor=self.model.tokenizer_config().spatial_factor,
            max_pixels=limits.pixels,
            max_seconds=limits.seconds,
            max_frames=limits.frames,
            min_seconds=filters.min_seconds,
            longest_seconds=filters.max_seconds,
            min_fps=filters.min_fps,
            max_fps=filters.max_fps,
            min_size=filters.min_size,
            codecs=None if filters.codecs is None else tuple(filters.codecs),
            threads=max(1, self.executor.threads // max(1, self.executor.num_decoders)),
        )

    @model_validator(mode="after")
    def _check(self) -> "JobConfig":
        if problems := self.misfits():
            raise ValueError("\n".join(problems))
        return self

    def misfits(self) -> list[str]:
        """What is wrong between sections that are right each by itself."""
        config = self.model.tokenizer_config()
        problems = list(self._stream_misfits(config) if self.is_stream else self._window_misfits(config))
        if self.model.checkpoint is None:
            problems.append(
                f"model.checkpoint: {self.model.name} needs its weights: a path or URL of a .safetensors or .ckpt file "
                "(or `random`, for a test)"
            )
        if problem := why_not_writable(self.output, single_writer=self.storage.output.allow_single_writer):
            problems.insert(0, f"output: {problem}")
        if self.clips.size % config.spatial_factor:
            problems.append(
                f"clips.size: {self.clips.size} is not a multiple of {config.spatial_factor}, the spatial factor "
                f"of {self.model.name}"
            )
        if self.rows.logvar and config.is_discrete:
            problems.append(f"rows.logvar: {self.model.name} is an FSQ model and has no log-variance")
        return problems

    def _window_misfits(self, config: TokenizerConfig) -> Iterator[str]:
        try:
            decoded = config.decoded_frames(config.latent_frames(self.clip_frames))
        except ValueError as error:
            yield f"clips.num_frames: {error}"
        else:
            if decoded < self.clip_frames:
                yield (
                    f"clips.num_frames: {self.model.name} gives back {decoded} of {self.clip_frames} frames; expected "
                    f"k*{config.time_factor} + 1 (1, {config.time_factor + 1}, {2 * config.time_factor + 1}, ...)"
                )
        if self.clips.stride is not None and self.clips.stride > self.clip_frames:
            yield (
                f"clips.stride: {self.clips.stride} is above the clip's {self.clip_frames} frames, so frames would "
                "be lost between clips"
            )

    def _stream_misfits(self, config: TokenizerConfig) -> Iterator[str]:
        if config.version != "1.1":
            yield (
                f"clips.mode: {self.model.name} takes no stream; those of version 1.1 (..._v1_1) do, "
                "and for this one write mode: windows"
            )
        if self.clips.segment_frames % config.time_factor:
            yield (
                f"clips.segment_frames: {self.clips.segment_frames} is no multiple of {config.time_factor}, the time "
                f"factor of {self.model.name}"
            )
        if self.executor.batch_size not in (None, 1):
            yield (
                f"executor.batch_size: {self.executor.batch_size} goes with clips.mode: windows; a stream is "
                "encoded one segment after another, and clips.segment_frames is what fills a GPU"
            )


class JobDraft(JobConfig):
    """A job whose sections are right each by itself, and may not fit each other: see `misfits`."""

    @model_validator(mode="after")
    def _check(self) -> "JobDraft":
        return self
