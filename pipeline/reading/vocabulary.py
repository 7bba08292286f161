"""Vocabulary: how a clip's grid of tokens is written as a sequence of ids of a language model.

Legend of shapes: T, H, W of the latent grid; N ids of a sequence.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.errors import ConfigError

__all__ = ["Vocabulary"]

_AXES = "thw"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Ids of video tokens, and of what stands between them.

    The ids from `offset` on are ours: those of the codebook (with `digits` those of each digit's levels in turn), then
    `bos` before a clip, `end_of_frame` after each latent frame but where T is not the outermost axis, `end_of_video`
    after a clip, and `pad`. Ids below `offset` are the text's.

    Attributes:
        levels: the codebook's levels, whose product is its size; the first digit counts ones.
        offset: the first id.
        order: in which order the grid is read, the outermost axis first: `thw` (frame by frame), `hwt` ...
        digits: write each token as its FSQ digits, one id a digit (a factorised vocabulary): a few dozen ids in place
            of a codebook's thousands, in sequences as many times as long.
        frame_ends: whether `end_of_frame` is written.
    """

    levels: Sequence[int]
    offset: int = 0
    order: str = _AXES
    digits: bool = False
    frame_ends: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))  # as JSON has them, a list
        if sorted(self.order) != sorted(_AXES):
            raise ConfigError(f"order {self.order!r}: expected the letters t, h and w, each once")
        if self.offset < 0:
            raise ConfigError(f"offset {self.offset}: expected 0 or more")

    @property
    def codebook_size(self) -> int:
        """How many different tokens there are."""
        size = 1
        for level in self.levels:
            size *= level
        return size

    @property
    def num_video_ids(self) -> int:
        """How many ids tokens are written with."""
        return sum(self.levels) if self.digits else self.codebook_size

    @property
    def bos(self) -> int:
        """Stands before a clip."""
        return self.offset + self.num_video_ids

    @property
    def end_of_frame(self) -> int:
        """Stands after each latent frame."""
        return self.bos + 1

    @property
    def end_of_video(self) -> int:
        """Stands after a clip."""
        return self.bos + 2

    @property
    def pad(self) -> int:
        """Fills a sequence up."""
        return self.bos + 3

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return self.bos + 4

    @property
    def ids_per_token(self) -> int:
        """How many ids a token is written with."""
        return len(self.levels) if self.digits else 1

    @property
    def has_frame_ends(self) -> bool:
        """Whether `end_of_frame` is written, which takes T as the outermost axis."""
        return self.frame_ends and self.order[0] == "t"

    def num_ids(self, shape: Sequence[int]) -> int:
        """How many ids a clip of a latent shape (T, H, W) becomes."""
        frames, height, width = shape
        return frames * height * width * self.ids_per_token + (frames if self.has_frame_ends else 0) + 2

    def encode(self, tokens_THW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A clip as a sequence.

        Returns:
            int64 ids (N,), and int32 positions (N, 3): the place (t, h, w) of each id's token; of `end_of_frame`
            (t, H, W), of `bos` (0, 0, 0), of `end_of_video` (T, 0, 0).
        """
        template, positions = _template(self, tuple(tokens_THW.shape))
        ids = template.clone()
        axes = [_AXES.index(letter) for letter in self.order]
        ids_FX = ids[1:-1].view(tokens_THW.shape[axes[0]], -1)
        digits_THWD = self._ids(tokens_THW.long())
        ids_FX[:, : -1 if self.has_frame_ends else None] = digits_THWD.permute(*axes, 3).reshape(len(ids_FX), -1)
        return ids, positions.clone()

    def _ids(self, tokens: torch.Tensor) -> torch.Tensor:
        """Ids of tokens, those of one token along a last axis."""
        if not self.digits:
            return (tokens + self.offset).unsqueeze(-1)
        found, begin = [], self.offset
        for level in self.levels:
            found.append(tokens % level + begin)
            tokens, begin = tokens // level, begin + level
        return torch.stack(found, dim=-1)

    def decode(self, ids: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The grid of tokens, int32 (T, H, W), that the ids of one clip stand for; what is no video id is left out.

        Raises:
            ConfigError: there are not as many video ids as the shape wants, or a digit stands in another's place.
        """
        video = ids[(ids >= self.offset) & (ids < self.bos)] - self.offset
        axes = [_AXES.index(letter) for letter in self.order]
        sizes = [shape[axis] for axis in axes]
        wanted = sizes[0] * sizes[1] * sizes[2] * self.ids_per_token
        if video.numel() != wanted:
            raise ConfigError(f"{video.numel()} video ids: expected {wanted} for a grid of {tuple(shape)}")
        digits_XD = video.reshape(-1, self.ids_per_token)
        tokens = digits_XD[:, 0]
        if self.digits:
            levels = torch.tensor(self.levels)
            begins = torch.tensor([0, *itertools.accumulate(self.levels)][:-1])
            digits_XD = digits_XD - begins
            if bool(((digits_XD < 0) | (digits_XD >= levels)).any()):
                raise ConfigError("a digit stands in the place of another one")
            weights = torch.tensor([1, *itertools.accumulate(self.levels, lambda left, right: left * right)][:-1])
            tokens = (digits_XD * weights).sum(dim=1)
        grid = tokens.reshape(sizes).permute(*(axes.index(axis) for axis in range(3)))
        return grid.contiguous().to(torch.int32)


@functools.lru_cache(maxsize=64)
def _template(vocabulary: Vocabulary, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the ids of all clips of a shape share: those that are no video's, and the positions."""
    frames, height, width = shape
    grid = torch.meshgrid(*(torch.arange(size, dtype=torch.int32) for size in shape), indexing="ij")
    axes = [_AXES.index(letter) for letter in vocabulary.order]
    places_FX3 = torch.stack(grid, dim=-1).permute(*axes, 3).reshape(shape[axes[0]], -1, 3)
    places_FX3 = places_FX3.repeat_interleave(vocabulary.ids_per_token, dim=1)
    if vocabulary.has_frame_ends:
        ends = torch.tensor([[[frame, height, width]] for frame in range(frames)], dtype=torch.int32)
        places_FX3 = torch.cat([places_FX3, ends], dim=1)
    first_and_last = torch.tensor([[0, 0, 0], [frames, 0, 0]], dtype=torch.int32)
    positions = torch.cat([first_and_last[:1], places_FX3.reshape(-1, 3), first_and_last[1:]])
    ids = torch.full((len(positions),), vocabulary.end_of_frame)
    ids[0], ids[-1] = vocabulary.bos, vocabulary.end_of_video
    return ids, positions
