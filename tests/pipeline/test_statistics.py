"""Channel sums, against numpy over the stored values."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rows import build_rows
from pipeline.statistics import channel_sums, merge_channel_sums
from tests.records_for_tests import batch_of, clip_of, random_latents, tokens_of


def rows_of(*latents: np.ndarray) -> list[dict[str, Any]]:
    """Rows as a part holds them, of latents (C, T, H, W)."""
    names = ("latent_t", "latent_h", "latent_w")
    return [
        {"latents": values.astype("<f2").tobytes(), **dict(zip(names, values.shape[1:], strict=True))}
        for values in latents
    ]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_against_numpy(frames: int) -> None:
    clips = [clip_of(str(number)) for number in range(6)]
    encoded = [random_latents(number, 3, frames, 4, 5) for number in range(6)]
    (part,) = build_rows([(batch_of(*clips), encoded)], logvar=True)
    sums = channel_sums(part.rows)
    stored = np.stack([clip.latents_CTHW for clip in encoded]).astype(np.float16).astype(np.float64)
    assert sums is not None
    for name, values in (("first", stored[:, :, :1]), ("rest", stored[:, :, 1:])):
        assert sums[name]["count"] == values[:, 0].size
        np.testing.assert_allclose(sums[name]["sum"], values.sum(axis=(0, 2, 3, 4)), atol=1e-12)
        np.testing.assert_allclose(sums[name]["sum_of_squares"], (values**2).sum(axis=(0, 2, 3, 4)), atol=1e-12)


def test_only_a_streams_first_segment_has_the_first_latent() -> None:
    values = np.arange(24.0).reshape(2, 3, 2, 2)
    rows = [{**row, "segment_index": number} for number, row in enumerate(rows_of(values, values + 100))]
    sums = channel_sums(rows)
    assert sums is not None
    assert (sums["first"]["count"], sums["rest"]["count"]) == (4, 8 + 12)
    assert sums["first"]["sum"] == values[:, :1].sum(axis=(1, 2, 3)).tolist()
    assert sums["rest"]["sum"] == (values[:, 1:].sum(axis=(1, 2, 3)) + (values + 100).sum(axis=(1, 2, 3))).tolist()


def test_tokens_have_none() -> None:
    (part,) = build_rows([(batch_of(clip_of()), [tokens_of(1, 2, 2)])], logvar=False)
    assert channel_sums(part.rows) is None and channel_sums([]) is None


def test_large_values_neither_overflow_nor_vanish() -> None:
    """In float16 65504 squared is infinite, and adding 1 to 4096 is lost."""
    latents = np.ones((1, 1, 64, 65))
    latents[0, 0, 0, 0] = 65504
    sums = channel_sums(rows_of(latents))
    assert sums is not None and sums["first"] == {
        "count": 64 * 65,
        "sum": [65504.0 + 64 * 65 - 1],
        "sum_of_squares": [65504.0**2 + 64 * 65 - 1],
    }


whole_numbers = st.lists(st.integers(-64, 64), min_size=16, max_size=16).map(
    lambda values: channel_sums(rows_of(np.array(values, np.float64).reshape(2, 2, 2, 2)))
)


@given(whole_numbers, whole_numbers, whole_numbers)
def test_merging_is_associative_with_nothing_as_its_zero(one: Any, two: Any, three: Any) -> None:
    merge = merge_channel_sums
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, two) == merge(two, one)
    assert merge(one, None) == merge(None, one) == one and merge(None, None) is None


@given(st.integers(0, 6))
def test_merging_parts_is_adding_up_the_whole(cut: int) -> None:
    rows = rows_of(*np.random.default_rng(0).integers(-9, 9, (6, 2, 3, 2, 2)).astype(np.float64))
    assert merge_channel_sums(channel_sums(rows[:cut]), channel_sums(rows[cut:])) == channel_sums(rows)
