"""Usage of a codebook, against numpy over all tokens at once and against distributions whose entropy is known."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

import pipeline.code_usage
from pipeline.code_usage import CodeCounter, code_usage, count_codes, entropy_bits
from pipeline.errors import StorageError

LEVELS = (8, 5, 3, 4)
SIZE = 8 * 5 * 3 * 4


@pytest.fixture(params=["dense", "sparse"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts in an array of the codebook's size, and sorted ones."""
    if request.param == "sparse":
        monkeypatch.setattr(pipeline.code_usage, "_MOST_DENSE", 0)


def tokens_of(seed: int, count: int = 3000) -> np.ndarray:
    """Codes of which some are frequent and many never occur."""
    return (np.random.default_rng(seed).geometric(0.02, count).clip(max=SIZE) * 7 % SIZE).astype(np.int32)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("pieces", [1, 2, 7, 300])
def test_counts_of_pieces_are_those_of_the_whole(pieces: int) -> None:
    tokens = tokens_of(1)
    counter = CodeCounter(SIZE)
    for piece in np.array_split(tokens, pieces):
        counter.add(count_codes(piece, SIZE))
    codes, counts = counter.total()
    assert dict(zip(codes.tolist(), counts.tolist(), strict=True)) == Counter(tokens.tolist())
    assert codes.tolist() == sorted(set(tokens.tolist()))


def test_codes_of_30_bits_are_counted_without_an_array_of_them() -> None:
    tokens = np.random.default_rng(0).integers(0, 2**30, 5000, dtype=np.int32)
    tokens[:100] = 2**30 - 1
    counter = CodeCounter(2**30)
    for _ in range(3):
        counter.add(count_codes(tokens, 2**30))
    codes, counts = counter.total()
    assert dict(zip(codes.tolist(), counts.tolist(), strict=True)) == Counter(tokens.tolist() * 3)
    usage = code_usage((codes, counts), (2**10, 2**10, 2**10))
    assert usage.most_frequent[0] == {"code": 2**30 - 1, "count": 300, "share": 300 / 15000}
    assert (usage.used, usage.dead) == (len(set(tokens.tolist())), 2**30 - len(set(tokens.tolist())))


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("wrong", [-1, SIZE])
def test_what_is_no_code_is_told(wrong: int) -> None:
    with pytest.raises(StorageError, match=f"expected 0 to {SIZE - 1}"):
        count_codes(np.array([3, wrong], np.int32), SIZE)


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([7] * 8, 3.0), ([5], 0.0), ([], 0.0), ([4, 2, 1, 1, 0], 1.75), ([1, 3], 2 - 0.75 * math.log2(3))],
)
def test_entropy_of_known_distributions(counts: list[int], bits: float) -> None:
    assert entropy_bits(np.array(counts, np.int64)) == pytest.approx(bits, abs=1e-14)


def test_usage_against_counting_one_by_one() -> None:
    tokens = tokens_of(2).tolist()
    usage = code_usage(count_codes(np.array(tokens), SIZE), LEVELS)
    counts = Counter(tokens)
    falling = sorted(counts.values(), reverse=True)
    shares = [count / len(tokens) for count in falling]
    assert (usage.tokens, usage.codebook_size) == (len(tokens), SIZE)
    assert (usage.used, usage.dead) == (len(counts), SIZE - len(counts)) and usage.dead > 0
    assert usage.entropy_bits == pytest.approx(-sum(share * math.log2(share) for share in shares), rel=1e-12)
    assert usage.perplexity == pytest.approx(math.prod(share**-share for share in shares), rel=1e-9)
    assert usage.share_of_top == pytest.approx({str(top): sum(shares[:top]) for top in (1, 10, 100, 1000)})
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    assert [(top["code"], top["count"]) for top in usage.most_frequent] == expected
    assert usage.ranks[0] == {"rank": 1, "count": falling[0]}
    assert usage.ranks[-1] == {"rank": len(counts), "count": falling[-1]}
    assert all(point["count"] == falling[point["rank"] - 1] for point in usage.ranks)


def test_digits_are_those_that_make_the_code() -> None:
    """Codes are put together from digits here: the first one counts ones."""
    digits = [tuple(row) for row in np.random.default_rng(3).integers(0, LEVELS, (2000, 4)).tolist()]
    digits += [(7, 0, 0, 0)] * 50 + [(0, 0, 0, 3)] * 90
    weights = list(itertools.accumulate((1, *LEVELS[:-1]), lambda left, right: left * right))
    tokens = np.array([sum(d * w for d, w in zip(row, weights, strict=True)) for row in digits])
    usage = code_usage(count_codes(tokens, SIZE), LEVELS)
    for place, (digit, level) in enumerate(zip(usage.digits, LEVELS, strict=True)):
        counts = [sum(row[place] == value for row in digits) for value in range(level)]
        assert (digit.levels, digit.counts) == (level, counts)
        shares = np.array(counts) / len(digits)
        assert digit.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-12)


def test_no_tokens() -> None:
    usage = code_usage(CodeCounter(SIZE).total(), LEVELS)
    assert (usage.tokens, usage.used, usage.dead, usage.entropy_bits) == (0, 0, SIZE, 0.0)
    assert usage.most_frequent == usage.ranks == [] and set(usage.share_of_top.values()) == {0.0}
    assert code_usage(CodeCounter(2**30).total(), (2**10,) * 3).dead == 2**30
