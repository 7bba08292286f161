"""What TokenDataset and TokenStream share: where a process stands, and which states may be gone on with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info

from pipeline.errors import ConfigError

__all__ = ["Position", "SharedNumbers", "check_states", "merged_carries", "worker_share"]

_SLOTS = 64  # of workers whose counts are kept apart


def worker_share() -> tuple[int, int]:
    """Which worker of a DataLoader this process is, and of how many; the only one where it is none."""
    worker = get_worker_info()
    return (0, 1) if worker is None else (worker.id, worker.num_workers)


class Position:
    """Where a process stands, as (items that all ranks took, this process's items since then).

    Attributes:
        begin: where `iter` begins.
        at: where the last iteration stands.
    """

    def __init__(self) -> None:
        self.begin = self.at = (0, 0)

    def restart(self) -> None:
        """Goes to the beginning."""
        self.begin = self.at = (0, 0)

    def consumed(self, world_size: int) -> int:
        """Items that all ranks took before `iter` begins."""
        return self.begin[0] + self.begin[1] * world_size

    def state(self, world_size: int) -> dict[str, Any]:
        """Where the last iteration stands; of one of several workers, where that one does."""
        (base, items), (_, of) = self.at, worker_share()
        return {"consumed": base + items * world_size} if of == 1 else {"consumed": base, "items": items, "workers": of}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state says."""
        self.begin = self.at = (int(state["consumed"]), int(state.get("items", 0)))


class SharedNumbers:
    """An epoch, and a count to which each worker adds, in memory that a DataLoader's workers share."""

    def __init__(self, epoch: int = 0) -> None:
        self._numbers = torch.zeros(1 + _SLOTS, dtype=torch.int64)
        self._numbers.share_memory_()  # type: ignore[no-untyped-call]  # of torch, which has no type for it
        self.epoch = epoch

    @property
    def epoch(self) -> int:
        """As it was set last, by whichever process."""
        return int(self._numbers.numpy()[0])  # a tenth of what indexing a tensor takes

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._numbers[0] = epoch

    @property
    def count(self) -> int:
        """Of all workers together."""
        return int(self._numbers[1:].sum())

    def add(self, count: int) -> None:
        """Adds to this worker's count."""
        self._numbers[1 + worker_share()[0] % _SLOTS] += count


def merged_carries(states: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, ...]]:
    """Where a TokenStream's lanes stand, of each lane the farthest that a state knows (see packing.Carry)."""
    carries: dict[int, tuple[int, ...]] = {}
    for lane, carry in ((int(lane), tuple(carry)) for one in states for lane, carry in one.get("carries", {}).items()):
        carries[lane] = max(carry, carries.get(lane, carry))
    return carries


def check_states(kind: str, wanted: object, states: Sequence[Mapping[str, Any]], same: Collection[str]) -> None:
    """Refuses states that this one cannot go on with.

    Args:
        kind: of which class they are, for the message.
        wanted: what is to go on.
        states: of one process, or of all ranks.
        same: which attributes have to be the same.

    Raises:
        ConfigError: they lack something, are of other attributes, do not fit each other, or are of a worker among
            another number of workers.
    """
    whose = f"the state of a {kind}"
    for state in states:
        if lacking := {*same, "seed", "consumed", "snapshot", "removals", "fingerprint"} - state.keys():
            raise ConfigError(f"{whose}: has no {', '.join(sorted(lacking))}")
        if different := [name for name in same if state[name] != getattr(wanted, name)]:
            said = ", ".join(f"{name} {state[name]!r} (here {getattr(wanted, name)!r})" for name in different)
            raise ConfigError(f"{whose}: is of {said}: another order, which cannot be gone on with")
        _, of = worker_share()
        if state.get("workers", 1) != of and state.get("items"):
            raise ConfigError(
                f"{whose}: of one of {state['workers']} workers does not go on with {of}: see TokenLoader"
            )
        if state["consumed"] != states[0]["consumed"]:
            raise ConfigError(f"{whose}: ranks stand at {states[0]['consumed']} and at {state['consumed']}")
