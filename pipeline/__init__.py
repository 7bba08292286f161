"""From shards of videos to committed rows of tokens or latents, and from there to training.

Everything between storage and the encoder, and `TokenDataset`, which reads what was written. PyTorch is imported with
the first name that needs it: a driver has no need of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reading.token_dataset import TokenDataset

__all__ = ["TokenDataset"]

_LATER = {"TokenDataset": "reading.token_dataset"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
