"""Convolutions on a CPU, with weights that were brought once into the order in memory that oneDNN's kernels want.

PyTorch does that at each call, and gives convolutions over (T, H, W) of a single clip to a kernel of its own that knows
no channels-last. What is used here is what torch.compile uses where it freezes weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["convolution"]

_FUNCTIONS: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}
_packed: Any = WeakTensorKeyDictionary()  # by weight: what it was then, and its copy


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """What F.conv2d or F.conv3d gives.

    Args:
        x: (N, I, *axes), channels-last in memory.
        weight: (O, I, *kernel); a kernel of fewer axes than x has is along the first of them.
        bias: (O,).
        stride: Along each axis.
        padding: At both ends of each axis, with zeros.
    """
    kernel = weight.view(*weight.shape, *[1] * (x.ndim - weight.ndim))
    if not _packs(x, weight):
        return _FUNCTIONS[x.ndim](x, kernel, bias, stride=stride, padding=padding)
    dilation = (1,) * len(stride)
    identity = (weight.data_ptr(), weight._version, weight.shape)
    if weight not in _packed or _packed[weight][0] != identity:
        order = torch.ops.mkldnn._reorder_convolution_weight(kernel, padding, stride, dilation, 1, x.shape)
        _packed[weight] = identity, order
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, _packed[weight][1], bias, padding, stride, dilation, 1, "none", [], ""
    )
    return y


def _packs(x: Tensor, weight: Tensor) -> bool:
    return bool(
        weight.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or weight.is_inference())
    )
