"""Nodes on which shards fail, one after the other: such a node fails each in no time, and so would take them all."""

import time
from collections import Counter
from collections.abc import Callable, Collection

__all__ = ["Suspicion"]

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0


class Suspicion:
    """Which nodes get no shard for a while; the more fail on one and none is done, the longer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody is suspected yet."""
        self._clock = clock
        self._in_a_row: Counter[str] = Counter()
        self._until: dict[str, float] = {}

    def failed(self, node: str) -> None:
        """A shard failed there."""
        pause = _FIRST_PAUSE_SECONDS * 2 ** min(self._in_a_row[node], 16)
        self._in_a_row[node] += 1
        self._until[node] = self._clock() + min(pause, _LONGEST_PAUSE_SECONDS)

    def done(self, node: str) -> None:
        """A shard was done there."""
        self._in_a_row.pop(node, None)
        self._until.pop(node, None)

    def allows(self, node: str, nodes: Collection[str]) -> bool:
        """Whether a node may get a shard; without other nodes it always may."""
        return self._clock() >= self._until.get(node, 0.0) or set(nodes) <= {node}
