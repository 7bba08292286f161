"""The order of an epoch: which rows come when, as a pure function of (row counts, seed, epoch, unit, lanes).

Nothing here reads anything, and nothing here knows of ranks: a *unit* is some rows (a batch, or one row) that are given
out together, units are numbered through the whole epoch, and ranks and workers then take each their own numbers.

    row groups, shuffled -> one long sequence of rows (those of a group shuffled) -> cut into units
                         -> as many equal stretches as there are *lanes* -> units dealt from the lanes in turns

So about `lanes` row groups are open at a time, rows of which are mixed, and a reader that takes each n-th unit, where n
divides the number of lanes, touches its own lanes alone: no row group is read by two of them (but for those in which
one lane ends and the next begins).

Shuffling sorts by a hash (SplitMix64), since the streams of NumPy's generators may change between its versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["EpochOrder", "Section", "Span", "Unit", "hashed", "shuffled"]

Numbers = npt.NDArray[np.int64]
_MASK = (1 << 64) - 1
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hashed(*values: int) -> int:
    """64 bits of some integers: SplitMix64 (Steele, Lea, Flood 2014), one step for each."""
    state = 0
    for value in values:
        state = _finalised(np.array([(state ^ (int(value) & _MASK)) & _MASK], np.uint64)).item()
    return state


def _finalised(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = states + np.uint64(_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return mixed ^ (mixed >> np.uint64(31))


def shuffled(count: int, *key: int) -> Numbers:
    """The numbers below `count` in an order that the key alone says."""
    states = np.arange(count, dtype=np.uint64) * np.uint64(_GAMMA) ^ np.uint64(hashed(*key))
    return np.argsort(_finalised(_finalised(states)), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Section:
    """Rows that may stand in one unit: all of them, or those of one latent shape.

    Attributes:
        groups: numbers of the row groups that have some, rising.
        rows: how many each of them has.
    """

    groups: Numbers
    rows: Numbers


@dataclass(frozen=True)
class Unit:
    """Some rows, by their positions in their section's sequence.

    Attributes:
        section: its number.
        first: position of the first row.
        count: how many rows.
    """

    section: int
    first: int
    count: int


@dataclass(frozen=True)
class Span:
    """Rows of one row group that follow each other in the sequence.

    Attributes:
        group: number of the row group.
        first: place of the first among the group's rows as they are shuffled.
        count: how many rows.
    """

    group: int
    first: int
    count: int


class EpochOrder:
    """The units of one epoch, and the rows of each."""

    def __init__(
        self,
        sections: Sequence[Section],
        *,
        seed: int,
        epoch: int,
        unit_rows: int = 1,
        lanes: int = 8,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        """Lays out an epoch.

        Args:
            sections: their rows are never in one unit.
            seed: any integer.
            epoch: any integer.
            unit_rows: rows of a unit.
            lanes: from so many places of the sequence units are taken in turns.
            shuffle: False: rows stand as they were written, in one lane, section after section.
            drop_last: leave out the rows of each section that fill no unit; else they make a smaller one.
        """
        self.key = (seed, epoch, shuffle)  # names the order of the rows in a group
        self._shuffle = shuffle
        self._unit_rows = unit_rows
        self._lanes = lanes if shuffle else 1
        self._groups: list[Numbers] = []
        self._begins: list[Numbers] = []  # of each group in its section's sequence, and the end of the last
        for number, section in enumerate(sections):
            order = shuffled(len(section.groups), seed, epoch, 1, number) if shuffle else np.arange(len(section.groups))
            self._groups.append(section.groups[order])
            self._begins.append(np.concatenate([[0], np.cumsum(section.rows[order])]).astype(np.int64))
        self._rows = np.array([begins[-1] for begins in self._begins], np.int64)
        self._whole_units = self._rows // unit_rows
        # A round is a unit of each lane; what is left of a section comes after all rounds, then what fills no unit.
        full = self._whole_units // self._lanes
        rounds = np.repeat(np.arange(len(sections)), full)
        self._rounds = rounds[shuffled(len(rounds), seed, epoch, 2)] if shuffle and len(sections) > 1 else rounds
        self._round_of_section = _running_count(self._rounds, len(sections)) if len(sections) > 1 else None
        self._left = self._whole_units - full * self._lanes
        self._left_begins = len(rounds) * self._lanes + np.concatenate([[0], np.cumsum(self._left)])
        tails = np.flatnonzero(self._rows % unit_rows) if not drop_last else np.zeros(0, np.int64)
        self._tails = tails
        self.num_units = int(self._left_begins[-1]) + len(tails)

    def unit(self, number: int) -> Unit:
        """One unit; numbers go from 0 to `num_units` - 1."""
        if not 0 <= number < self.num_units:
            raise IndexError(number)
        size = self._unit_rows
        if number < self._left_begins[0]:
            turn, lane = divmod(number, self._lanes)
            section = int(self._rounds[turn])
            turn = turn if self._round_of_section is None else int(self._round_of_section[turn])
            return Unit(section, self._lane_begin(section, lane) + turn * size, size)
        if number < self._left_begins[-1]:
            section = int(np.searchsorted(self._left_begins, number, side="right")) - 1
            lane = number - int(self._left_begins[section])
            turn = int(self._whole_units[section]) // self._lanes
            return Unit(section, self._lane_begin(section, lane) + turn * size, size)
        section = int(self._tails[number - int(self._left_begins[-1])])
        whole = int(self._whole_units[section]) * size
        return Unit(section, whole, int(self._rows[section]) - whole)

    def _lane_begin(self, section: int, lane: int) -> int:
        """Where a lane begins in the section's sequence: all lanes are of one length, or of one unit more."""
        turns, left = divmod(int(self._whole_units[section]), self._lanes)
        return self._unit_rows * (lane * turns + min(lane, left))

    def lane(self, section: int, lane: int) -> Unit:
        """All rows of a lane, as if they were one unit."""
        begin, end = (self._lane_begin(section, number) for number in (lane, lane + 1))
        return Unit(section, begin, end - begin)

    @property
    def num_sections(self) -> int:
        """How many sections there are."""
        return len(self._groups)

    def num_rows(self, section: int) -> int:
        """How many rows a section has."""
        return int(self._rows[section])

    def rows_left_in_group(self, section: int, position: int) -> int:
        """How many rows of a section's sequence there are from one on to the end of its row group."""
        begins = self._begins[section]
        return int(begins[np.searchsorted(begins, position, side="right")]) - position

    def spans(self, unit: Unit) -> list[Span]:
        """The rows of a unit by row group, in order."""
        begins, groups = self._begins[unit.section], self._groups[unit.section]
        place = int(np.searchsorted(begins, unit.first, side="right")) - 1
        spans, first, left = [], unit.first, unit.count
        while left:
            count = min(left, int(begins[place + 1]) - first)
            spans.append(Span(int(groups[place]), first - int(begins[place]), count))
            first, left, place = first + count, left - count, place + 1
        return spans

    def order_in_group(self, section: int, group: int, count: int) -> Numbers:
        """In which order the rows of a section stand that a group has."""
        return shuffled(count, *self.key, 3, section, group) if self._shuffle else np.arange(count)


def _running_count(values: Numbers, kinds: int) -> Numbers:
    """For each value, how many equal ones stand before it."""
    counts = np.empty(len(values), np.int64)
    for kind in range(kinds):
        places = np.flatnonzero(values == kind)
        counts[places] = np.arange(len(places))
    return counts
