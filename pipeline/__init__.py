"""From shards of videos to committed rows of tokens or latents, and from there to training.

Everything between storage and the encoder, and the classes that read what was written. PyTorch is imported with the
first name that needs it: a driver has no need of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reading.latent_stream import LatentStream
    from pipeline.reading.loader import TokenLoader
    from pipeline.reading.token_dataset import TokenDataset
    from pipeline.reading.token_stream import TokenStream
    from pipeline.reading.vocabulary import Vocabulary

__all__ = ["LatentStream", "TokenDataset", "TokenLoader", "TokenStream", "Vocabulary"]

_LATER = {
    "LatentStream": "latent_stream",
    "TokenDataset": "token_dataset",
    "TokenLoader": "loader",
    "TokenStream": "token_stream",
    "Vocabulary": "vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.reading.{_LATER[name]}"), name)
