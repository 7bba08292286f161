"""The VidTok video tokenizer (arXiv 2412.13061) in PyTorch: videos to tokens or latents, and back.

    tokenizer = load_tokenizer("vidtok_fsq_causal_488_32768", "weights.ckpt")
    with torch.inference_mode():
        encoded = tokenizer.encode(clips_BCTHW)                # (B, 3, 17, 256, 256), floats in [-1, 1]
        clips_BCTHW = tokenizer.decode_tokens(encoded.tokens)  # from (B, 5, 32, 32), integers

Read config.py first (what the models are), then tokenizer.py, networks.py and layers.py (what they compute).
"""

from vidtok_model.checkpoint import load_tokenizer
from vidtok_model.config import TokenizerConfig
from vidtok_model.models import MODELS, get_config
from vidtok_model.regularizers import Encoded
from vidtok_model.tokenizer import VideoTokenizer, random_tokenizer

__all__ = [
    "MODELS",
    "Encoded",
    "TokenizerConfig",
    "VideoTokenizer",
    "get_config",
    "load_tokenizer",
    "random_tokenizer",
]
