"""The VidTok video tokenizer (arXiv 2412.13061) in PyTorch: videos to tokens or latents, and back.

    tokenizer = load_tokenizer("vidtok_fsq_causal_488_32768", "weights.ckpt")  # the small models need no file
    with torch.inference_mode():
        encoded = tokenizer.encode(clips_BCTHW)                # (B, 3, 17, 256, 256), floats in [-1, 1]
        clips_BCTHW = tokenizer.decode_tokens(encoded.tokens)  # from (B, 5, 32, 32), integers

Models of version 1.1 take videos of any length in chunks too: `tokenizer.stream_encoder()`, `.stream_decoder()`.

Read config.py first (what the models are), then tokenizer.py, networks.py and layers.py (what they compute).
PyTorch is imported with the first name that needs it, so that whoever only asks what the models are has no need of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vidtok_model.config import TokenizerConfig
from vidtok_model.models import CARRIED, MODELS, carried_weights, get_config

if TYPE_CHECKING:
    from vidtok_model.checkpoint import load_tokenizer
    from vidtok_model.regularizers import Encoded
    from vidtok_model.streams import StreamDecoder, StreamEncoder
    from vidtok_model.tensor_file import read_config, save_tokenizer
    from vidtok_model.tokenizer import VideoTokenizer, random_tokenizer

__all__ = [
    "CARRIED",
    "MODELS",
    "Encoded",
    "StreamDecoder",
    "StreamEncoder",
    "TokenizerConfig",
    "VideoTokenizer",
    "carried_weights",
    "get_config",
    "load_tokenizer",
    "random_tokenizer",
    "read_config",
    "save_tokenizer",
]

_LATER = {
    "Encoded": "regularizers",
    "StreamDecoder": "streams",
    "StreamEncoder": "streams",
    "VideoTokenizer": "tokenizer",
    "load_tokenizer": "checkpoint",
    "random_tokenizer": "tokenizer",
    "read_config": "tensor_file",
    "save_tokenizer": "tensor_file",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
