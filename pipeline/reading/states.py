"""What TokenDataset and TokenStream share: which states may be gone on with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.utils.data import get_worker_info

from pipeline.errors import ConfigError

__all__ = ["SLOTS", "check_states"]

SLOTS = 64  # of workers whose counts are kept apart


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
        worker = get_worker_info()
        of = 1 if worker is None else worker.num_workers
        if state.get("workers", 1) != of and state.get("items"):
            raise ConfigError(
                f"{whose}: of one of {state['workers']} workers does not go on with {of}: see TokenLoader"
            )
        if state["consumed"] != states[0]["consumed"]:
            raise ConfigError(f"{whose}: ranks stand at {states[0]['consumed']} and at {state['consumed']}")
