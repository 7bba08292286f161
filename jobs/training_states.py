"""Saved states of a training: written whole or not at all, the newest found by its name."""

import io
import pickle
import re
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.storage import Store

__all__ = ["TrainingStates"]

_FOLDER = "states"
_NAME = re.compile(r"states/step-(\d{9})\.pt")


class TrainingStates:
    """The states in a training's output."""

    def __init__(self, store: Store, *, keep: int) -> None:
        """Looks at nothing yet.

        Args:
            store: the output.
            keep: how many states stay.
        """
        self._store = store
        self._keep = keep

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """The state after most iterations, and how many those are; None where there is none.

        Raises:
            ConfigError: it cannot be read.
            StorageError: the store failed.
        """
        steps = self.steps()
        if not steps:
            return None
        path = _path(steps[-1])
        try:
            return steps[-1], torch.load(io.BytesIO(self._store.read(path)), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
            raise ConfigError(
                f"{self._store.root}/{path}: cannot be read ({type(error).__name__}); remove it to go on before it"
            ) from None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Saves the state after `step` iterations, and removes those that are no longer kept."""
        file = io.BytesIO()
        torch.save(state, file)
        self._store.put(_path(step), file.getvalue())
        for old in self.steps()[: -self._keep]:
            self._store.delete(_path(old))

    def steps(self) -> list[int]:
        """After how many iterations there are states, rising."""
        found = (_NAME.fullmatch(info.path) for info in self._store.list(_FOLDER))
        return sorted(int(name[1]) for name in found if name)


def _path(step: int) -> str:
    return f"{_FOLDER}/step-{step:09d}.pt"
