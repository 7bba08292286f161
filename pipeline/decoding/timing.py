"""When frames are shown, and which of them are taken.

A frame's time is its own presentation time. It is changed in three cases only, and then the frames are flagged: where a
container lacks it, where it has those of decoding in place of it, and where recordings were joined.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeVar

from pipeline.decoding.options import DecodeOptions

__all__ = ["PacketTimes", "Timeline", "sampled"]

T = TypeVar("T")


class PacketTimes(NamedTuple):
    """Of one packet, in units of the stream's time base: when it is shown, when it is decoded, whether it is a key."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_discarded: bool  # outside an edit list: decoded, and never shown


class Timeline:
    """The times of a stream's frames, known from its packets before any is decoded.

    Attributes:
        flags: what was unusual up to now.
        is_sure: whether each frame comes out with the time of its packet, each time once, so that frames can be chosen
            before they are decoded.
    """

    def __init__(
        self,
        packets: Sequence[PacketTimes],
        time_base: Fraction,
        rate: Fraction,
        *,
        reorders: bool,
        has_times: bool = True,
    ) -> None:
        """Takes what demuxing alone tells.

        Args:
            packets: of the stream, in the order of the file.
            time_base: seconds of a unit.
            rate: frames a second by the container, or 0.
            reorders: whether the codec may show frames in another order than it decodes them.
            has_times: whether the container has times of presentation at all (AVI counts packets).
        """
        self.flags: dict[str, None] = {}
        gap = 1 / rate if rate else Fraction(0)
        # Times are counted in whole ticks, of which both a unit and a frame's duration are multiples: exact, and quick.
        self._ticks_a_second = math.lcm(time_base.denominator, gap.denominator)
        self._unit = int(time_base * self._ticks_a_second)
        self._gap = int(gap * self._ticks_a_second)
        shown = [packet.pts for packet in packets if packet.pts is not None and not packet.is_discarded]
        decoded = [packet.dts for packet in packets if packet.dts is not None]
        is_whole = len(shown) == sum(not packet.is_discarded for packet in packets) and len(set(shown)) == len(shown)
        # A muxer that knew no presentation times wrote those of decoding: each right, and with the wrong frame.
        is_made_up = not has_times or all(packet.pts == packet.dts for packet in packets)
        is_unordered = reorders and len(packets) > 1 and is_made_up
        rises = all(left < right for left, right in pairwise(decoded))
        self.is_sure = is_whole and rises and not is_unordered
        self._shown = sorted(shown)
        self._by_rank = iter(self._shown) if is_whole and is_unordered and rises else None
        self._first: int | None = None
        self._last: int | None = None
        self._shift = 0
        self._later = _beginnings(packets)[1:]

    def times(self) -> list[tuple[Fraction, int]]:
        """Seconds from the first frame, and the packet's time, of each frame in the order in which they are shown."""
        first, unit, a_second = self._shown[0] if self._shown else 0, self._unit, self._ticks_a_second
        return [(Fraction((pts - first) * unit, a_second), pts) for pts in self._shown]

    def place(self, pts: int | None, dts: int | None) -> Fraction | None:
        """The seconds from the first frame at which the next frame is shown; None where it has no place of its own.

        Args:
            pts: the frame's own presentation time.
            dts: when it was decoded.
        """
        if self._by_rank is not None:
            self.flags["mended_times"] = None
            pts = next(self._by_rank, pts)
        elif pts is None:
            self.flags["missing_times"] = None
            pts = dts
        if pts is None:
            time = 0 if self._last is None else self._last + self._gap
        else:
            absolute = pts * self._unit
            if self._first is None:
                self._first = absolute
            time = absolute - self._first + self._shift
        if self._last is not None and time <= self._last:
            # Nearer to the last frame than to the first of a recording that was joined on?
            beginning = (self._later[0] * self._unit - (self._first or 0) + self._shift) if self._later else None
            if beginning is None or abs(time - beginning) >= self._last - time:
                # A frame shown after a later one.
                self.flags["backward_times"] = None
                return None
            # The clock was set back.
            self._later.pop(0)
            self.flags["joined_times"] = None
            self._shift += self._last + self._gap - time
            time = self._last + self._gap
        self._last = time
        return Fraction(time, self._ticks_a_second)


def _beginnings(packets: Sequence[PacketTimes]) -> list[int]:
    """When the first frame of each recording is shown, of those that were joined: where the clock of decoding falls."""
    recordings: list[list[int]] = [[]]
    last: int | None = None
    for packet in packets:
        if packet.dts is not None:
            if last is not None and packet.dts < last:
                recordings.append([])
            last = packet.dts
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is not None:
            recordings[-1].append(shown)
    return [min(times) for times in recordings if times]


def sampled(
    timed: Iterable[tuple[Fraction, T]], options: DecodeOptions, rate: Fraction
) -> Iterator[tuple[Fraction, T]]:
    """Those of some frames that are taken, by their times.

    With `fps`, time is cut into slots of 1/fps and the first frame of each slot is taken, so a frame is never taken
    twice and a slower source keeps its own rate. The slots begin half a source frame early, which makes the choice
    that of the nearest frame, and indifferent to times rounded to a coarse time base. With `every`, every n-th frame
    is taken; with `nearest_fps`, every n-th too, n = max(1, round(rate / nearest_fps)); with none of them, every frame.
    """
    start = Fraction(0) if options.start_seconds is None else Fraction(options.start_seconds)
    end = None if options.end_seconds is None else Fraction(options.end_seconds)
    # A time that a person wrote is rounded, and so may be the frame's.
    near = min(1 / rate, Fraction(1, 25)) / 4 if rate else Fraction(1, 1000)
    within = (
        (time, item)
        for time, item in timed
        if (options.start_seconds is None or time >= start - near) and (end is None or time < end - near)
    )
    if options.fps is None:
        every = options.every or 1
        if options.nearest_fps is not None and rate:
            every = max(1, round(float(rate) / options.nearest_fps))
        for number, pair in enumerate(within):
            if number % every == 0:
                yield pair
        return
    wanted = Fraction(options.fps).limit_denominator(1_000_000)
    early = min(1 / rate, 1 / wanted) / 2 if rate else Fraction(0)
    slot = -1
    for time, item in within:
        own = int((time - start + early) * wanted)
        if own > slot:
            slot = own
            yield time, item
