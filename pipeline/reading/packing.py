"""Rows as ids, one after the other, cut into sequences of one length: what a lane of a TokenStream does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipeline.errors import ConfigError
from pipeline.reading.vocabulary import Vocabulary

__all__ = [
    "PAD",
    "TEXT",
    "VIDEO",
    "Carry",
    "LanePacker",
    "Packing",
    "Piece",
    "RowWriter",
    "WrittenRow",
    "joined_batch",
    "sequence_of",
]

Packing = Literal["across", "within"]
PAD, TEXT, VIDEO = 0, 1, 2  # kinds of ids


@dataclass(frozen=True)
class WrittenRow:
    """A row as ids.

    Attributes:
        row_id: the row's.
        ids: int64 (N,).
        positions: int32 (N, 3): see Vocabulary.encode; 0 for text.
        kinds: uint8 (N,): TEXT or VIDEO.
        is_learned: bool (N,): whether an id is to be predicted.
    """

    row_id: str
    ids: torch.Tensor
    positions: torch.Tensor
    kinds: torch.Tensor
    is_learned: torch.Tensor

    def fitted(self, length: int) -> "WrittenRow":
        """The same cut off, or with nothing to be predicted at its end, where another row stands in for one."""
        more = length - len(self.ids)
        if not more:
            return self

        def fit(values: torch.Tensor) -> torch.Tensor:
            last = values[-1:].expand(max(more, 0), *values.shape[1:])
            return torch.cat([values, last])[:length]

        is_learned = fit(self.is_learned)
        is_learned[len(self.ids) :] = False
        return WrittenRow(self.row_id, fit(self.ids), fit(self.positions), fit(self.kinds), is_learned)


@dataclass(frozen=True)
class RowWriter:
    """How rows are written.

    Attributes:
        vocabulary: of the video's ids.
        text: gives a caption's ids; None: captions are left out.
        text_place: where they stand, `before` the clip or `after` it.
        text_is_learned: whether they are to be predicted too.
    """

    vocabulary: Vocabulary
    text: Callable[[str], Sequence[int]] | None = None
    text_place: Literal["before", "after"] = "before"
    text_is_learned: bool = False

    def text_ids(self, caption: str | None) -> list[int]:
        """The ids of a caption.

        Raises:
            ConfigError: one is the video's.
        """
        ids = [] if self.text is None or not caption else [int(number) for number in self.text(caption)]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocabulary.offset:
            raise ConfigError(
                f"the text's ids go from {min(ids)} to {max(ids)}: expected from 0 to below the vocabulary's offset "
                f"{self.vocabulary.offset}"
            )
        return ids

    def num_ids(self, shape: Sequence[int], caption: Callable[[], str | None]) -> int:
        """How many ids a row has; its caption is looked at only where that says so."""
        return self.vocabulary.num_ids(shape) + (0 if self.text is None else len(self.text_ids(caption())))

    def write(self, row_id: str, tokens_THW: torch.Tensor, caption: str | None) -> WrittenRow:
        """A row as ids."""
        ids, positions = self.vocabulary.encode(tokens_THW)
        text = torch.tensor(self.text_ids(caption), dtype=torch.int64)
        is_learned = torch.ones(len(ids), dtype=torch.bool)
        is_learned[0] = False  # nobody predicts that a clip begins
        pieces = [
            (text, torch.zeros(len(text), 3, dtype=torch.int32), TEXT, torch.full((len(text),), self.text_is_learned)),
            (ids, positions, VIDEO, is_learned),
        ]
        if self.text_place == "after":
            pieces.reverse()
        return WrittenRow(
            row_id,
            torch.cat([ids for ids, _, _, _ in pieces]),
            torch.cat([positions for _, positions, _, _ in pieces]),
            torch.cat([torch.full((len(ids),), kind, dtype=torch.uint8) for ids, _, kind, _ in pieces]),
            torch.cat([is_learned for _, _, _, is_learned in pieces]),
        )


@dataclass(frozen=True)
class Carry:
    """Where a lane stands.

    Attributes:
        sequences: how many it gave.
        row: number of its next row, counted over all epochs.
        first: how many of that row's ids were given.
    """

    sequences: int = 0
    row: int = 0
    first: int = 0


@dataclass(frozen=True)
class Piece:
    """Ids of one row in one sequence: from `first` to before `end` of the row's."""

    row: int
    first: int
    end: int


class LanePacker:
    """Cuts a lane's rows into sequences. It says what stands where from the rows' lengths alone."""

    def __init__(
        self, length_of: Callable[[int], int | None], *, context: int, packing: Packing, carry: Carry | None = None
    ) -> None:
        """Begins at the lane's beginning, or where it stood.

        Args:
            length_of: how many ids a row has; None: there is no such row, the lane is at its end.
            context: ids of a sequence.
            packing: `across`: a row goes on in the next sequence where it does not fit; `within`: it begins there.
            carry: where the lane stood.
        """
        self._length_of = length_of
        self._context = context
        self._packing = packing
        self.carry = carry or Carry()

    def skip(self, sequences: int, row_length: int | None = None) -> None:
        """Goes over some sequences.

        Args:
            sequences: how many.
            row_length: that of every row, where all have one and the lane has no end.
        """
        if row_length is not None and self._packing == "across":
            at = self.carry
            row, first = divmod(at.row * row_length + at.first + sequences * self._context, row_length)
            self.carry = Carry(at.sequences + sequences, row, first)
            return
        for _ in range(sequences):
            self.next()

    def next(self) -> list[Piece]:
        """The pieces of the next sequence; none at the lane's end."""
        pieces, left = [], self._context
        row, first = self.carry.row, self.carry.first
        while left and (length := self._length_of(row)) is not None:
            if self._packing == "within" and length > self._context:
                raise ConfigError(f"a row of {length} ids does not fit into a context of {self._context}")
            if self._packing == "within" and length > left:
                break
            end = min(length, first + left)
            pieces.append(Piece(row, first, end))
            left -= end - first
            row, first = (row + 1, 0) if end == length else (row, end)
        self.carry = Carry(self.carry.sequences + 1, row, first)
        return pieces


def sequence_of(pieces: Sequence[tuple[Piece, WrittenRow]], *, context: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """A sequence of exactly `context` ids; what no piece fills is padding, with a boundary before it."""
    left = context - sum(piece.end - piece.first for piece, _ in pieces)
    lengths = [piece.end - piece.first for piece, _ in pieces] + ([left] if left else [])

    def joined(name: str, padding: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(row, name)[piece.first : piece.end] for piece, row in pieces] + [padding])

    return {
        "id": [row.row_id for _, row in pieces],
        "tokens": joined("ids", torch.full((left,), vocabulary.pad)),
        "positions": joined("positions", torch.zeros(left, 3, dtype=torch.int32)),
        "kinds": joined("kinds", torch.full((left,), PAD, dtype=torch.uint8)),
        "loss_mask": joined("is_learned", torch.zeros(left, dtype=torch.bool)),
        "index": torch.cat(
            [torch.arange(piece.first, piece.end) for piece, _ in pieces] + [torch.zeros(left, dtype=torch.int64)]
        ),
        "cu_seqlens": torch.tensor([0, *_sums(lengths)], dtype=torch.int32),
    }


def _sums(lengths: Sequence[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        total += length
        yield total


def joined_batch(sequences: Sequence[dict[str, Any]], context: int) -> dict[str, Any]:
    """Sequences as a batch: (B, context, ...); `cu_seqlens` runs over all B * context ids."""
    batch: dict[str, Any] = {"id": [sequence["id"] for sequence in sequences]}
    for name in ("tokens", "positions", "kinds", "loss_mask", "index"):
        batch[name] = torch.stack([sequence[name] for sequence in sequences])
    ends = [sequence["cu_seqlens"][1:] + number * context for number, sequence in enumerate(sequences)]
    batch["cu_seqlens"] = torch.cat([torch.zeros(1, dtype=torch.int32), *ends])
    return batch
