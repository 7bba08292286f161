"""What turns gradients into steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from vidtok_model.training.options import TrainingOptions

__all__ = ["make_optimizers"]


def make_optimizers(parameters: Sequence[nn.Parameter], options: TrainingOptions) -> list[Optimizer]:
    """The optimizers that together step all of `parameters`.

    Raises:
        ValueError: This PyTorch is without the optimizer asked for.
    """
    if options.optimizer == "adam":
        return [Adam(parameters, lr=options.learning_rate)]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    kernels = [parameter for parameter in parameters if parameter.ndim >= 2]
    return [Adam(vectors, lr=options.learning_rate), _muon(kernels, options.learning_rate)]


def _muon(kernels: Sequence[nn.Parameter], learning_rate: float) -> Optimizer:
    """PyTorch's Muon, which takes matrices alone: each kernel as one, output channels by all else, on its memory."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"training.optimizer: muon: PyTorch {torch.__version__} is without it, 2.9 and later have it")
    matrices = [nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels]
    # Steps of Adam's size, so that one learning rate serves for both.
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def take_gradients(*_: Any) -> None:
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)

    muon.register_step_pre_hook(take_gradients)
    return muon
