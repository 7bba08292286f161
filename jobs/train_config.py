"""The training job file, as types."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from pipeline.config import StoreConfig
from pipeline.input_config import InputConfig
from pipeline.model_config import RANDOM_CHECKPOINT
from pipeline.storage import absolute_url
from pipeline.training_clips import TrainingClipsConfig
from pipeline.video_config import Section
from vidtok_model import TokenizerConfig, get_config
from vidtok_model.training.discriminator import LEAST_SIZE
from vidtok_model.training.options import TrainingOptions

__all__ = ["TrainingJob"]

# Each position's probability of each code is computed: 2^18 is the largest released codebook.
_MOST_CODES = 2**22


class TrainedModelConfig(Section):
    """The model, and where it begins."""

    name: str = Field(description="A released model, whose architecture it has; or any name, with `architecture`.")
    architecture: dict[str, Any] | None = Field(
        default=None, description="Fields of another architecture (vidtok_model.TokenizerConfig), but for the name."
    )
    start: str = Field(
        default=RANDOM_CHECKPOINT,
        description="Where its weights begin: `random`, as the published ones did, or a checkpoint (a published one, "
        "or the model.safetensors of the stage before).",
    )
    seed: int = Field(default=0, ge=0, lt=2**20, description="Of random weights, and of the order of the videos.")

    @field_validator("start")
    @classmethod
    def _absolute(cls, start: str) -> str:
        return start if start == RANDOM_CHECKPOINT else absolute_url(start)

    def tokenizer_config(self) -> TokenizerConfig:
        """The network.

        Raises:
            ValueError: there is no such model, or no such architecture.
        """
        if self.architecture is None:
            return get_config(self.name)
        return TokenizerConfig.from_dict({**self.architecture, "name": self.name})

    @model_validator(mode="after")
    def _check(self) -> "TrainedModelConfig":
        self.tokenizer_config()
        return self


class TrainingExecutorConfig(Section):
    """Where it runs. Nothing here changes what is learned, but for rounding."""

    address: str | None = Field(
        default=None, description="Ray's address; null: RAY_ADDRESS, else the cluster of this machine, else a new one."
    )
    num_workers: int = Field(default=1, gt=0, description="Ranks; the batch is divided among them.")
    gpus_per_worker: float = Field(default=0, ge=0, description="0: on the CPU.")
    cpus_per_worker: float = Field(
        default=1, gt=0, description="On a CPU also PyTorch's threads, rounded down to >= 1."
    )
    decoders: int = Field(default=1, gt=0, description="Decoding processes of a worker.")
    max_failures: int = Field(default=3, ge=0, description="How often workers that died are replaced.")


class ValidationConfig(Section):
    """What is looked at now and then."""

    input: InputConfig
    every: int = Field(default=1000, gt=0, description="Iterations.")
    num_clips: int = Field(default=16, gt=0, description="Clips, of as many samples.")
    fps: float | None = Field(default=8, gt=0, description="Frames a second.")


class TrainingJob(Section):
    """One stage of training: videos in, one model out."""

    input: InputConfig
    output: str = Field(min_length=1, description="A folder, local or on any store: checkpoints and the model.")
    model: TrainedModelConfig
    clips: TrainingClipsConfig = Field(default_factory=TrainingClipsConfig)
    batch_size: int = Field(default=16, gt=0, description="Clips of an iteration, over all workers.")
    training: TrainingOptions = Field(default_factory=TrainingOptions)
    lpips: list[str] = Field(
        default_factory=list,
        description="Files of LPIPS's weights (VGG16's and its own), local; none: trained without that term.",
    )
    executor: TrainingExecutorConfig = Field(default_factory=TrainingExecutorConfig)
    validation: ValidationConfig | None = None
    save_every: int = Field(default=1000, gt=0, description="Iterations from one saved state to the next.")
    keep: int = Field(default=2, gt=0, description="Saved states that are kept.")
    log_every: int = Field(default=50, gt=0, description="Iterations from one line to the next.")
    storage: StoreConfig = Field(default_factory=StoreConfig, description="How to reach all stores of the job.")

    @field_validator("output")
    @classmethod
    def _absolute(cls, output: str) -> str:
        return absolute_url(output)

    @field_validator("lpips")
    @classmethod
    def _all_absolute(cls, lpips: list[str]) -> list[str]:
        return [absolute_url(path) for path in lpips]  # workers have folders of their own

    @model_validator(mode="after")
    def _check(self) -> "TrainingJob":
        config = self.model.tokenizer_config()
        try:
            decoded = config.decoded_frames(config.latent_frames(self.clips.num_frames))
            config.check_frame_size(self.clips.size, self.clips.size)
        except ValueError as error:
            raise ValueError(f"clips: {error}") from None
        if decoded < self.clips.num_frames:
            raise ValueError(f"clips.num_frames: {config.name} gives back {decoded} of {self.clips.num_frames} frames")
        if isinstance(self.clips.resize, int) and self.clips.resize < self.clips.size:
            raise ValueError(f"clips.resize: {self.clips.resize} is below clips.size, {self.clips.size}")
        if self.training.adversarial is not None and self.clips.size < LEAST_SIZE:
            raise ValueError(
                f"clips.size: {self.clips.size}: the discriminator needs {LEAST_SIZE} pixels, or adversarial: null"
            )
        if self.training.trains == "all" and self.training.fsq_weight and (config.codebook_size or 0) > _MOST_CODES:
            raise ValueError(
                f"training.fsq_weight: the entropy of {config.codebook_size:,} codes cannot be taken; expected 0 where "
                f"there are more than {_MOST_CODES:,}"
            )
        if self.batch_size % self.executor.num_workers:
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be divided among {self.executor.num_workers} workers evenly"
            )
        return self
