"""Activations keep one layout, and nothing copies them to get there."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vidtok_model.support import golden_tokenizer
from vidtok_model import layers

NAMES = ["vidtok_kl_causal_488_4chn", "vidtok_kl_noncausal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"]


class CountClones(TorchDispatchMode):
    """Counts the copies that `contiguous` and `reshape` make where a view won't do."""

    def __init__(self):
        super().__init__()
        self.clones = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.clones += func.overloadpacket is torch.ops.aten.clone
        return func(*args, **(kwargs or {}))


# Two clips: for one, with little in it, PyTorch takes a 3D convolution of its own that knows no channels-last.
@pytest.mark.parametrize("name", NAMES)
def test_convolutions_give_channels_last(name, monkeypatch):
    to_layout, seen = layers._to_layout, []

    def checked(y, order):
        seen.append((y.ndim, y.permute(order).is_contiguous()))
        return to_layout(y, order)

    monkeypatch.setattr(layers, "_to_layout", checked)
    tokenizer = golden_tokenizer(name)
    with torch.inference_mode():
        tokenizer.decode(tokenizer.encode(torch.zeros(2, 3, 16, 32, 32)).latents)
    assert {ndim for ndim, _ in seen} == {4, 5}
    assert all(is_view for _, is_view in seen)


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_copy_only_to_upsample(name):
    tokenizer = golden_tokenizer(name)
    config = tokenizer.config
    with torch.no_grad():
        with CountClones() as counted:
            tokenizer.encoder(torch.zeros(2, 16, 32, 32, 3))
        assert counted.clones == 0
        with CountClones() as counted:
            tokenizer.decoder(torch.zeros(2, 4, 4, 4, 4))
    repeats_frames = config.version == "1.0"
    assert counted.clones == len(config.spatial_up_levels) + repeats_frames * len(config.temporal_up_levels)


def test_an_input_in_another_layout_is_refused_rather_than_copied():
    conv = layers.Conv(3, 4, (3, 3))
    with pytest.raises(RuntimeError, match="view"):
        conv(torch.zeros(2, 3, 5, 8, 8).permute(0, 2, 3, 4, 1))


def test_a_convolution_without_channels_last_changes_nothing():
    """One small clip takes PyTorch's own 3D convolution, two of them another kernel: the numbers are the same."""
    torch.manual_seed(0)
    conv = layers.Conv(4, 6, (3, 3, 3), pad_time=True)
    x_BTHWC = torch.randn(1, 3, 4, 4, 4)
    alone, together = conv(x_BTHWC), conv(x_BTHWC.expand(2, -1, -1, -1, -1).contiguous())
    assert alone.is_contiguous() and together.is_contiguous()
    torch.testing.assert_close(alone[0], together[0])
