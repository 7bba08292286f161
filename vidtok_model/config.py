"""The VidTok family as data: what each released model is, and what shapes it takes and gives.

Letters in names and docstrings: B batch, C channels, T frames, H height, W width, z latent channels.
A prime marks the compressed axes: T', H', W'.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Version = Literal["1.0", "1.1"]
TimePadding = Literal["zeros_in_front", "first_frame_in_front", "zeros_on_both_sides"]

_CLIP_FRAMES = {"1.0": 17, "1.1": 33}
_NONCAUSAL_CLIP_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """One VidTok model (arXiv 2412.13061): its architecture, and the shapes that follow from it.

    Equal configurations build equal models. Lists given for the tuple fields are turned into tuples.

    Raises:
        ValueError: If a field's value, or a combination of fields, describes no model of the family. The message
            names the field, its value and what is allowed.
    """

    name: str
    """What the model is called in datasets and messages; for a released model, its published name."""

    latent_channels: int
    """z, the channels of a latent: what the decoder takes."""

    base_channels: int = 128
    """Width of level 0. Every released model has 128; tests use 16."""

    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level as a multiple of `base_channels`; its length is the number of levels."""

    blocks_per_level: int = 2
    """Pairs of a spatial and a temporal residual block on each level of the encoder. The decoder has one pair more."""

    spatial_down_levels: tuple[int, ...] = (0, 1, 2)
    """Levels of the encoder that end by halving height and width."""

    temporal_down_levels: tuple[int, ...] = (1, 2)
    """Levels of the encoder that end by halving the frames."""

    spatial_up_levels: tuple[int, ...] = (1, 2, 3)
    """Levels of the decoder that end by doubling height and width."""

    temporal_up_levels: tuple[int, ...] = (1, 2)
    """Levels of the decoder that end by doubling the frames. Not always the mirror of the encoder's."""

    is_causal: bool = True
    """Whether a frame sees only itself and earlier frames."""

    version: Version = "1.0"
    """"1.1" pads in time with copies of the first frame and interpolates when it upsamples in time; causal only."""

    fsq_levels: tuple[int, ...] = ()
    """Levels of each latent channel's finite scalar quantizer (arXiv 2309.15505). Empty: a KL model."""

    def __post_init__(self) -> None:
        """Turns lists into tuples, then refuses what describes no model."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name={self.name!r}: expected a non-empty string")
        if not isinstance(self.is_causal, bool):
            raise ValueError(f"is_causal={self.is_causal!r}: expected true or false")
        if self.version not in _CLIP_FRAMES:
            raise ValueError(f"version={self.version!r}: expected one of {', '.join(map(repr, _CLIP_FRAMES))}")
        if self.version == "1.1" and not self.is_causal:
            raise ValueError("version='1.1' with is_causal=False: only causal models exist in version 1.1")
        for field in ("latent_channels", "base_channels", "blocks_per_level"):
            _check_integers(field, (getattr(self, field),), at_least=1)
        for field, at_least in (("channel_multipliers", 1), ("fsq_levels", 2)):
            self._make_tuple(field)
            _check_integers(field, getattr(self, field), at_least=at_least)
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers=(): expected at least one level")
        self._check_levels()
        if self.fsq_levels and len(self.fsq_levels) != self.latent_channels:
            raise ValueError(
                f"fsq_levels={self.fsq_levels} has {len(self.fsq_levels)} entries: expected one for each of the "
                f"{self.latent_channels} latent channels"
            )

    def _make_tuple(self, field: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, tuple | list):
            raise ValueError(f"{field}={value!r}: expected a list of integers")
        object.__setattr__(self, field, tuple(value))

    def _check_levels(self) -> None:
        num_levels = len(self.channel_multipliers)
        for axis in ("spatial", "temporal"):
            down, up = f"{axis}_down_levels", f"{axis}_up_levels"
            for field in (down, up):
                self._make_tuple(field)
                levels = getattr(self, field)
                _check_integers(field, levels, at_least=0)
                if list(levels) != sorted(set(levels)) or any(level >= num_levels for level in levels):
                    raise ValueError(f"{field}={levels}: expected rising levels between 0 and {num_levels - 1}")
            if len(getattr(self, down)) != len(getattr(self, up)):
                raise ValueError(
                    f"{down}={getattr(self, down)} and {up}={getattr(self, up)}: expected as many levels that halve "
                    f"as levels that double"
                )

    @property
    def is_discrete(self) -> bool:
        """Whether the model gives tokens (FSQ) rather than a distribution over latents (KL)."""
        return bool(self.fsq_levels)

    @property
    def codebook_size(self) -> int | None:
        """How many tokens there are: a token is at least 0 and less than this. None for a KL model."""
        return math.prod(self.fsq_levels) if self.fsq_levels else None

    @property
    def time_factor(self) -> int:
        """Frames that one latent frame stands for."""
        return int(2 ** len(self.temporal_down_levels))

    @property
    def spatial_factor(self) -> int:
        """Pixels in height, and in width, that one latent position stands for."""
        return int(2 ** len(self.spatial_down_levels))

    @property
    def clip_frames(self) -> int:
        """Frames of the clips that the released models are used with: 17, 16 (non-causal) or 33 (version 1.1)."""
        return _CLIP_FRAMES[self.version] if self.is_causal else _NONCAUSAL_CLIP_FRAMES

    @property
    def time_padding(self) -> TimePadding:
        """What stands beyond the ends of the clip for a convolution along time."""
        if not self.is_causal:
            return "zeros_on_both_sides"
        return "zeros_in_front" if self.version == "1.0" else "first_frame_in_front"

    def front_frames(self, num_frames: int) -> int:
        """How many copies of its first frame the encoder puts in front of a clip.

        Args:
            num_frames: The clip's frames.

        Returns:
            0 or more; `num_frames` plus this is a multiple of `time_factor`.

        Raises:
            ValueError: If the model can't take a clip of that length.
        """
        factor = self.time_factor
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"num_frames={num_frames!r}: {self.name} takes {self._allowed_frames()}")
        rest = num_frames % factor
        if rest == 0:
            return 0
        if self.version == "1.1" or (self.is_causal and rest == 1):
            return factor - rest
        raise ValueError(f"num_frames={num_frames}: {self.name} takes {self._allowed_frames()}")

    def latent_frames(self, num_frames: int) -> int:
        """How many latent frames a clip becomes.

        Args:
            num_frames: The clip's frames, at least 1.

        Returns:
            T', at least 1.

        Raises:
            ValueError: If the model can't take a clip of that length; the message says which lengths it takes.
        """
        return (num_frames + self.front_frames(num_frames)) // self.time_factor

    def decoded_frames(self, latent_frames: int) -> int:
        """How many frames the decoder gives for that many latent frames (at least 1)."""
        dropped = self.time_factor - 1 if self.is_causal and self.version == "1.0" else 0
        return latent_frames * self.time_factor - dropped

    def check_frame_size(self, height: int, width: int) -> None:
        """Refuses a frame size that the model can't take.

        Raises:
            ValueError: If height or width isn't a positive multiple of `spatial_factor`.
        """
        factor = self.spatial_factor
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ValueError(
                f"frame size {height}x{width} (height x width): {self.name} takes positive multiples of {factor} in "
                f"both"
            )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape (z, T', H', W') of one clip's latents; its tokens, if any, are (T', H', W').

        Raises:
            ValueError: If the model can't take such a clip.
        """
        self.check_frame_size(height, width)
        factor = self.spatial_factor
        return (self.latent_channels, self.latent_frames(num_frames), height // factor, width // factor)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values for the named fields, validated like a new one."""
        _check_names(changes, {field.name for field in dataclasses.fields(self)})
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, for `from_dict`."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` stored.

        Raises:
            ValueError: If a field is unknown, lacking, or has a value that describes no model.
        """
        fields = dataclasses.fields(cls)
        _check_names(values, {field.name for field in fields})
        lacking = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
        if lacking:
            raise ValueError(f"configuration lacks {', '.join(lacking)}")
        return cls(**values)

    def _allowed_frames(self) -> str:
        factor = self.time_factor
        if self.version == "1.1" or factor == 1:
            return "any number from 1"
        if self.is_causal:
            return f"k*{factor} + 1 frames (1, {factor + 1}, {2 * factor + 1}, ...) or a positive multiple of {factor}"
        return f"a positive multiple of {factor}"


def _check_integers(field: str, values: tuple[Any, ...], *, at_least: int) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise ValueError(f"{field} holds {value!r}: expected an integer of at least {at_least}")


def _check_names(given: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"unknown configuration field {', '.join(unknown)}; the fields are {', '.join(sorted(known))}")
