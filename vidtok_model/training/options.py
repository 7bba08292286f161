"""What a stage of training is made of. Two published stages differ in these values alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

__all__ = ["AdversarialOptions", "TrainingOptions"]


# For whoever reads these from a file with pydantic: what stands below each field describes it there too.
_IN_FILES: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


def _check(name: str, value: float, is_fine: bool, expected: str) -> None:
    if not is_fine:
        raise ValueError(f"{name}: {value}: expected {expected}")


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions:
    """The discriminator's part."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _IN_FILES

    weight: float = 0.2
    """Of the decoder's adversarial term, times the adaptive weight; at least 0."""

    start: int = 10_000
    """Iterations without it, at least 0; LeCam's means are taken from the first one on."""

    lecam_weight: float = 0.005
    """Of the discriminator's LeCam term."""

    lecam_decay: float = 0.999
    """Of LeCam's running means; from 0 to below 1."""

    learning_rate: float = 1e-5
    """Of the discriminator; above 0."""

    def __post_init__(self) -> None:
        """Refuses what no training can be done with."""
        _check("weight", self.weight, self.weight >= 0, "at least 0")
        _check("start", self.start, self.start >= 0, "at least 0")
        _check("lecam_decay", self.lecam_decay, 0 <= self.lecam_decay < 1, "0 to below 1")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """One stage."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _IN_FILES

    trains: Literal["all", "decoder"] = "all"
    """What learns: all, or the decoder alone, with the encoder as it is, so that tokens stay valid."""

    steps: int = 50_000
    """Iterations, at least 1."""

    optimizer: Literal["adam", "muon"] = "adam"
    """The autoencoder's; adam is the published one. muon: Muon for kernels (each step a matrix whose singular values
    are all near 1) and Adam for the rest; a small model got as far with it in about half the iterations."""

    learning_rate: float = 1e-5
    """Of the optimizer; above 0."""

    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: falls to a hundredth of the learning rate over the stage."""

    warmup_steps: int = 0
    """Iterations over which the learning rate rises from 0; at least 0."""

    clip_norm: float = 20.0
    """Gradients are scaled down to this norm; above 0."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the networks (autocast), LPIPS's among them; FSQ, its loss, and errors and logits are float32."""

    ema_decay: float = 0.999
    """Of the running mean of the weights, which is what a stage leaves; from 0 to below 1. A stage of few iterations
    wants less of it: the mean remembers about 1 / (1 - ema_decay) of them, and its start."""

    perceptual_weight: float = 1.0
    """Of LPIPS, where there are weights for it; at least 0."""

    kl_weight: float = 1e-6
    """Of the KL loss, of KL models; at least 0."""

    fsq_weight: float = 1.0
    """Of the auxiliary loss of FSQ models; at least 0."""

    adversarial: AdversarialOptions | None = AdversarialOptions()
    """The discriminator; null: none."""

    checkpoint_activations: bool = False
    """Compute a level's activations again on the way back instead of keeping them: less memory, a third more time."""

    def __post_init__(self) -> None:
        """Refuses what no training can be done with."""
        for name in ("learning_rate", "clip_norm"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "above 0")
        for name in ("warmup_steps", "perceptual_weight", "kl_weight", "fsq_weight"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        _check("steps", self.steps, self.steps > 0, "at least 1")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "0 to below 1")

    def learning_rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied with in an iteration; `step` counts from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return warm
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps))))
