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

__all__ = ["PackedConvolution"]

_FUNCTIONS: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}


class PackedConvolution:
    """What F.conv2d and F.conv3d give, for one layer; copies and pickles of it hold no weights."""

    def __init__(self) -> None:
        self._identity: tuple[Any, ...] = ()  # of what the packed weights are a copy
        self._packed: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedConvolution, ()

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        """Convolves.

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
        # The kernel that oneDNN takes, and with it the order, depends on the axes that are convolved along.
        sizes = [size for size, extent in zip(x.shape[2:], kernel.shape[2:], strict=True) if extent > 1]
        identity = (id(weight), weight.data_ptr(), weight._version, *sizes)
        if self._packed is None or self._identity != identity:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._packed, self._identity = reorder(kernel, padding, stride, dilation, 1, x.shape), identity
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, bias, padding, stride, dilation, 1, "none", [], ""
        )
        return y


def _packs(x: Tensor, weight: Tensor) -> bool:
    """Where weights stay what they are, and there is what packs them."""
    return bool(
        weight.dtype == x.dtype == torch.float32
        and x.device.type == "cpu"
        and not (torch.is_grad_enabled() or weight.requires_grad or torch.is_autocast_enabled("cpu"))
        and not torch.compiler.is_compiling()
        and not weight.is_inference()  # of which nobody counts the changes
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )
