"""Which codes of a codebook a dataset uses, and how often.

Letters: N tokens, K different codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import StorageError

__all__ = ["CodeCounter", "CodeUsage", "Counts", "code_usage", "count_codes", "entropy_bits"]

Numbers = npt.NDArray[np.int64]
Counts = tuple[Numbers, Numbers]  # codes, rising, and how often each occurs

# Up to here a codebook's counts are an array of its size (32 MiB), which is faster than sorting tokens.
_MOST_DENSE = 2**22
_SHOWN_CODES = 10
_RANKS_SHOWN = 200


def count_codes(tokens_N: npt.NDArray[np.integer], codebook_size: int) -> Counts:
    """How often each code occurs, of those that do.

    Args:
        tokens_N: codes in any order.
        codebook_size: how many there may be.

    Raises:
        StorageError: a token is none of the codebook's.
    """
    if tokens_N.size and (tokens_N.min() < 0 or tokens_N.max() >= codebook_size):
        found = f"{tokens_N.min()} to {tokens_N.max()}"
        raise StorageError(f"tokens {found}: expected 0 to {codebook_size - 1}; `vidtok verify` says where they are")
    if codebook_size <= _MOST_DENSE:
        counts = np.bincount(tokens_N)
        codes = np.flatnonzero(counts)
        return codes, counts[codes]
    codes, counts = np.unique(tokens_N, return_counts=True)
    return codes.astype(np.int64), counts


class CodeCounter:
    """Adds counts up, in memory of the codebook where that is small, else of 16 bytes for each code that occurs.

    (A few times as much while these are merged.)
    """

    def __init__(self, codebook_size: int) -> None:
        """Has counted nothing yet."""
        self._dense = np.zeros(codebook_size, np.int64) if codebook_size <= _MOST_DENSE else None
        self._sparse: Counts = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._waiting: list[Counts] = []
        self._num_waiting = 0

    def add(self, counts: Counts) -> None:
        """Adds what `count_codes` found."""
        if self._dense is not None:
            self._dense[counts[0]] += counts[1]
            return
        self._waiting.append(counts)
        self._num_waiting += len(counts[0])
        # Merged only when it is as much again: so each count is gone through a few times, however many there come.
        if self._num_waiting > len(self._sparse[0]):
            self._merge()

    def total(self) -> Counts:
        """The sum so far."""
        if self._dense is not None:
            codes = np.flatnonzero(self._dense)
            return codes, self._dense[codes]
        self._merge()
        return self._sparse

    def _merge(self) -> None:
        pieces = [piece for piece in (self._sparse, *self._waiting) if len(piece[0])]
        self._waiting, self._num_waiting = [], 0
        if len(pieces) <= 1:
            self._sparse = pieces[0] if pieces else self._sparse
            return
        codes, counts = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        # Codes (tokens are int32) with their places below them: NumPy sorts integers much faster than it argsorts.
        packed = np.sort(codes << 32 | np.arange(len(codes)))
        codes, counts = packed >> 32, counts[packed & 0xFFFFFFFF]
        begins = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        self._sparse = codes[begins], np.add.reduceat(counts, begins)


def entropy_bits(counts_K: npt.NDArray[np.integer]) -> float:
    """Entropy of a distribution that is given as counts, in bits: -sum(p log2 p) (Shannon 1948); 0 of no counts."""
    present_K = counts_K[counts_K > 0]
    shares_K = present_K / max(1, present_K.sum())
    return abs(float(np.sum(shares_K * np.log2(shares_K))))  # abs: -0.0 of a single code


@dataclass(frozen=True, kw_only=True)
class DigitUsage:
    """One digit of the codes, which is one channel of FSQ.

    Attributes:
        levels: how many values it may have.
        counts: tokens of each value.
        entropy_bits: of these; at most log2(levels).
    """

    levels: int
    counts: list[int]
    entropy_bits: float


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """How a dataset uses its codebook, in plain numbers.

    Attributes:
        codebook_size: how many codes there are.
        tokens: how many were counted.
        used: codes that occur.
        dead: those that do not.
        entropy_bits: of the distribution of codes; at most log2(codebook_size).
        perplexity: 2 to the entropy: as many equally frequent codes would have it.
        most_frequent: the first few codes by frequency: code, count, and share of all tokens.
        share_of_top: which share of all tokens the 1, 10, 100, 1,000 most frequent codes are together.
        ranks: rank (from 1) and count of some codes by falling frequency, close to evenly spaced on a log axis.
        digits: usage of each digit, code // prod(levels[:d]) % levels[d].
    """

    codebook_size: int
    tokens: int
    used: int
    dead: int
    entropy_bits: float
    perplexity: float
    most_frequent: list[dict[str, float]]
    share_of_top: dict[str, float]
    ranks: list[dict[str, int]]
    digits: list[DigitUsage]


def code_usage(counts: Counts, levels: Sequence[int]) -> CodeUsage:
    """What counts of codes say.

    Args:
        counts: as `CodeCounter.total` gives them.
        levels: the codebook's; the first digit counts ones.
    """
    codes_K, counts_K = counts
    size = math.prod(levels)
    tokens = int(counts_K.sum())
    falling_K = np.sort(counts_K)[::-1]
    entropy = entropy_bits(counts_K)
    return CodeUsage(
        codebook_size=size,
        tokens=tokens,
        used=len(codes_K),
        dead=size - len(codes_K),
        entropy_bits=entropy,
        perplexity=2.0**entropy,
        most_frequent=[
            {"code": int(codes_K[place]), "count": int(counts_K[place]), "share": int(counts_K[place]) / tokens}
            for place in _largest(counts_K, falling_K)
        ],
        share_of_top={str(top): int(falling_K[:top].sum()) / max(1, tokens) for top in (1, 10, 100, 1000)},
        ranks=[{"rank": rank, "count": int(falling_K[rank - 1])} for rank in _shown_ranks(len(codes_K))],
        digits=_digits(counts, levels),
    )


def _largest(counts_K: Numbers, falling_K: Numbers) -> Numbers:
    """The places of the largest few counts, of equal ones the first."""
    places = np.flatnonzero(counts_K >= falling_K[:_SHOWN_CODES].min(initial=np.iinfo(np.int64).max))
    return places[np.argsort(-counts_K[places], kind="stable")][:_SHOWN_CODES]


def _shown_ranks(count: int) -> list[int]:
    if count == 0:
        return []
    ranks: list[int] = np.unique(np.geomspace(1, count, _RANKS_SHOWN).round().astype(np.int64)).tolist()
    return ranks


def _digits(counts: Counts, levels: Sequence[int]) -> list[DigitUsage]:
    left_K, counts_K = counts
    found = []
    for level in levels:
        higher_K = left_K // level
        # As float64, in which bincount adds weights up, counts are exact up to 2**53.
        of_values = np.bincount(left_K - higher_K * level, weights=counts_K, minlength=level).astype(np.int64)
        found.append(DigitUsage(levels=level, counts=of_values.tolist(), entropy_bits=entropy_bits(of_values)))
        left_K = higher_K
    return found
