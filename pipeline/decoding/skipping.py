"""Which packets need no decoding, because none of the frames that are taken needs them."""

from collections.abc import Collection, Sequence
from enum import Enum

from pipeline.decoding.timing import PacketTimes

__all__ = ["Care", "plan_packets"]


class Care(Enum):
    """What is done with one packet."""

    DECODE = 0
    REFERENCE = 1  # decoded only if other frames refer to it
    DROP = 2


def plan_packets(packets: Sequence[PacketTimes], wanted: Collection[int]) -> list[Care]:
    """Decides for each packet, in the order of the file.

    A group of pictures (a key packet and what follows up to the next) that holds no wanted frame is dropped; with it
    the frames behind the next key that are shown before that key, for which the dropped group may be needed.

    Args:
        packets: of the stream, each with a time of its own.
        wanted: the times of the frames that are taken.
    """
    if not packets:
        return []
    keys = [number for number, packet in enumerate(packets) if packet.is_key]
    if not keys or keys[0] != 0:
        keys = [0, *keys]
    groups = [range(start, end) for start, end in zip(keys, [*keys[1:], len(packets)], strict=True)]
    cares = [Care.DECODE if packet.pts in wanted else Care.REFERENCE for packet in packets]
    needed = [any(cares[number] is Care.DECODE for number in group) for group in groups]
    for index, group in enumerate(groups):
        key_pts = packets[group[0]].pts
        leading = [number for number in group if _before(packets[number].pts, key_pts)]
        if index and any(cares[number] is Care.DECODE for number in leading):
            needed[index - 1] = True
    for index, group in enumerate(groups):
        if not needed[index]:
            dropped = list(group)
        elif index and not needed[index - 1]:
            key_pts = packets[group[0]].pts
            dropped = [number for number in group if _before(packets[number].pts, key_pts)]
        else:
            dropped = []
        for number in dropped:
            cares[number] = Care.DROP
    return cares


def _before(left: int | None, right: int | None) -> bool:
    return left is not None and right is not None and left < right
