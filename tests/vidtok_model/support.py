"""Golden models and clips."""

import functools
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

import vidtok_model.golden
from vidtok_model import TokenizerConfig, VideoTokenizer
from vidtok_model.golden import golden_weights

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
TOLERANCE = 1e-4

# Two levels at the narrowest width: milliseconds where a test isn't about the numbers of a released model.
TINY = {
    "base_channels": 4,
    "channel_multipliers": (1, 2),
    "spatial_down_levels": (0,),
    "temporal_down_levels": (0, 1),
    "spatial_up_levels": (1,),
    "temporal_up_levels": (0, 1),
}
TINY_FSQ = TokenizerConfig(name="tiny_fsq", latent_channels=3, fsq_levels=(8, 8, 8), **TINY)
TINY_KL = TokenizerConfig(name="tiny_kl", latent_channels=3, **TINY)
TINY_KL_V1_1 = TINY_KL.replace(name="tiny_kl_v1_1", version="1.1")
TINY_KL_NONCAUSAL = TINY_KL.replace(name="tiny_kl_noncausal", is_causal=False)


def fill(tokenizer: VideoTokenizer) -> VideoTokenizer:
    """The same tokenizer with weights made from their names: no weight is zero, so everything has an effect."""
    shapes = {name: value.shape for name, value in tokenizer.state_dict().items()}
    tokenizer.load_state_dict(golden_weights(shapes))
    return tokenizer.eval().requires_grad_(False)


golden_tokenizer = functools.cache(vidtok_model.golden.golden_tokenizer)


@functools.cache
def tiny_tokenizer(config: TokenizerConfig) -> VideoTokenizer:
    """A small model whose weights all have an effect."""
    return fill(VideoTokenizer(config))


def assert_close(got: torch.Tensor, expected: np.ndarray, what: str) -> None:
    """Fail unless shapes are equal and values agree to the golden tolerance."""
    assert tuple(got.shape) == expected.shape, what
    difference = float(np.abs(got.numpy() - expected).max())
    assert difference <= TOLERANCE, f"{what} differs by {difference}"


def lightning_checkpoint(state: dict[str, torch.Tensor]) -> dict:
    """What a training run leaves: the model, the loss's networks, an averaged copy, and the optimizer's state."""
    return {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {
            **state,
            "loss.logvar": torch.zeros(()),
            "loss.discriminator.main.0.weight": torch.zeros(64, 3, 4, 4),
            "model_ema.decay": torch.tensor(0.999),
            "model_ema.encoderconv_inconvweight": torch.zeros(3),
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [],
    }


def save(content: dict, path: Path) -> Path:
    """Write `content` in the format that the name says."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path
