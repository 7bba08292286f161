"""The job file's part on the tokenizer."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.storage import absolute_url
from pipeline.video_config import Section
from vidtok_model import CARRIED, TokenizerConfig, get_config

__all__ = ["CARRIED_CHECKPOINTS", "RANDOM_CHECKPOINT", "ModelConfig"]

RANDOM_CHECKPOINT = "random"
CARRIED_CHECKPOINTS = "carried://"
"""In front of the name of a model whose weights the package carries."""


class ModelConfig(Section):
    """The tokenizer."""

    name: str = Field(description="A released or a carried model; `vidtok models` lists them.")
    checkpoint: str | None = Field(
        default=None,
        description="Weights: a .safetensors or .ckpt file, local or on any store that fsspec knows; `random` for "
        "random weights (tests only: such tokens mean nothing); null: those that the package carries of its small "
        "models.",
    )
    dtype: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        default="fp32", description="Arithmetic of the encoder. On a GPU fp32 means that TF32 is off."
    )
    seed: int = Field(default=0, description="Seed of the weights; only with checkpoint: random.")
    overrides: dict[str, int] = Field(
        default_factory=dict,
        description="Fields of the model's configuration to change, such as base_channels: 16; only with "
        "checkpoint: random.",
    )

    @model_validator(mode="before")
    @classmethod
    def _carried(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("checkpoint") is None and values.get("name") in CARRIED:
            return {**values, "checkpoint": f"{CARRIED_CHECKPOINTS}{values['name']}"}
        return values

    @field_validator("checkpoint")
    @classmethod
    def _absolute(cls, checkpoint: str | None) -> str | None:
        return checkpoint if checkpoint in (None, RANDOM_CHECKPOINT) else absolute_url(checkpoint)

    def tokenizer_config(self) -> TokenizerConfig:
        """The configuration of the network, overrides applied.

        Raises:
            ValueError: there is no such model, or no such field.
        """
        return get_config(self.name).replace(**self.overrides)

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        self.tokenizer_config()
        if self.checkpoint not in (None, RANDOM_CHECKPOINT) and (self.overrides or self.seed):
            raise ValueError("overrides and seed go with checkpoint: random only; a checkpoint has its own shape")
        return self
