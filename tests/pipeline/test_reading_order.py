"""The order of an epoch: each row once, the same on every machine, and lanes that keep readers apart."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading.order import EpochOrder, Section, hashed, shuffled

SECTIONS = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=3)


def sections_of(counts: list[list[int]]) -> list[Section]:
    """Sections whose groups are numbered through, one after the other."""
    begins = np.cumsum([0, *map(len, counts)])
    return [
        Section(np.arange(begin, begin + len(rows)), np.array(rows, np.int64))
        for begin, rows in zip(begins, counts, strict=False)
    ]


def rows_of(order: EpochOrder, number: int) -> list[tuple[int, int, int]]:
    """A unit's rows as (section, group, place in the group)."""
    unit = order.unit(number)
    return [(unit.section, span.group, span.first + place) for span in order.spans(unit) for place in range(span.count)]


@given(SECTIONS, st.integers(1, 7), st.integers(1, 5), st.booleans(), st.booleans())
def test_each_row_comes_once(
    counts: list[list[int]], unit_rows: int, lanes: int, shuffle: bool, drop_last: bool
) -> None:
    order = EpochOrder(
        sections_of(counts), seed=3, epoch=1, unit_rows=unit_rows, lanes=lanes, shuffle=shuffle, drop_last=drop_last
    )
    units = [rows_of(order, number) for number in range(order.num_units)]
    found = Counter(row for unit in units for row in unit)
    begins = np.cumsum([0, *map(len, counts)])
    rows = {
        (section, int(begins[section]) + group, place)
        for section, groups in enumerate(counts)
        for group, count in enumerate(groups)
        for place in range(count)
    }
    assert set(found) <= rows and set(found.values()) <= {1}
    assert all(len({section for section, _, _ in unit}) == 1 for unit in units), "a unit is of one section"
    left = sum(sum(groups) % unit_rows for groups in counts) if drop_last else 0
    assert len(found) == len(rows) - left
    assert all(len(unit) == unit_rows for unit in units) or not drop_last


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    """Worked out once by SplitMix64 as published, in Python's own integers."""

    def finalised(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert finalised(0) == 0xE220A8397B1DCDAF, "the generator's first output from 0"
    assert hashed(0) == 0xE220A8397B1DCDAF
    key = finalised(finalised(7) ^ 2**64 - 1)
    assert hashed(7, -1) == key
    keys = [finalised(finalised(number * 0x9E3779B97F4A7C15 % 2**64 ^ key)) for number in range(50)]
    assert shuffled(50, 7, -1).tolist() == sorted(range(50), key=keys.__getitem__)


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [
        [rows_of(EpochOrder(sections_of([[5] * 8]), seed=seed, epoch=epoch), number) for number in range(40)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert shuffled(1000, 1).tolist() != shuffled(1000, 2).tolist()


def test_shuffling_is_fair() -> None:
    """Of 3 things each of the 6 orders comes about as often as the others: chi-squared with 5 degrees, p = 1e-6."""
    counts = Counter(tuple(shuffled(3, 11, number)) for number in range(6000))
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 35.9


def test_readers_that_divide_the_lanes_share_no_row_group() -> None:
    """But for those in which one lane ends and the next begins."""
    order = EpochOrder(sections_of([[10] * 64]), seed=0, epoch=0, unit_rows=5, lanes=8)
    of_readers = [
        {group for number in range(reader, order.num_units, 4) for _, group, _ in rows_of(order, number)}
        for reader in range(4)
    ]
    times = Counter(group for groups in of_readers for group in groups)
    assert sum(times.values()) <= 64 + 7
    assert len(times) == 64


def test_the_units_of_a_round_are_of_one_section() -> None:
    """So ranks that take one unit each have the same shape, and none waits for a larger one."""
    order = EpochOrder(sections_of([[6] * 10, [6] * 30]), seed=0, epoch=0, unit_rows=2, lanes=4)
    kinds = [order.unit(number).section for number in range(order.num_units)]
    rounds = [kinds[begin : begin + 4] for begin in range(0, 4 * (30 // 4 + 90 // 4), 4)]
    assert all(len(set(kinds)) == 1 for kinds in rounds)
    order_of_rounds = [kinds[0] for kinds in rounds]
    assert order_of_rounds not in (sorted(order_of_rounds), sorted(order_of_rounds, reverse=True))


def test_without_shuffling_rows_stand_as_they_were_written() -> None:
    order = EpochOrder(sections_of([[2, 3, 1]]), seed=5, epoch=5, lanes=4, shuffle=False)
    rows = [(group, place) for number in range(6) for _, group, place in rows_of(order, number)]
    assert rows == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert order.order_in_group(0, 1, 3).tolist() == [0, 1, 2]
