"""What turns gradients into steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from vidtok_model.training.options import TrainingOptions

__all__ = ["Muon", "make_optimizers"]

_MOMENTUM = 0.95
# A step's root mean square, by which Adam's learning rates serve here too (arXiv 2502.16982, section 2.2).
_STEP_RMS = 0.2
# Five iterations of this quintic bring all singular values near 1 (Jordan et al., Muon, 2024).
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
_LEAST_NORM = 1e-7


def make_optimizers(parameters: Sequence[nn.Parameter], options: TrainingOptions) -> list[Optimizer]:
    """The optimizers that together step all of `parameters`."""
    if options.optimizer == "adam":
        return [Adam(parameters, lr=options.learning_rate)]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    kernels = [parameter for parameter in parameters if parameter.ndim >= 2]
    return [Adam(vectors, lr=options.learning_rate), Muon(kernels, lr=options.learning_rate)]


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal, each kernel taken as a matrix: output channels by all else.

    PyTorch's own takes matrices alone, and works in bfloat16 on any device: with this model on a CPU without bfloat16
    that took longer than gradients did.

    Args:
        kernels: Parameters of two dimensions or more.
        lr: The learning rate, of Adam's size.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(kernels, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Steps every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                if not (state := self.state[kernel]):
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - _MOMENTUM)
                ahead = kernel.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
                matrix = orthogonalized(ahead.flatten(1))
                scale = _STEP_RMS * max(matrix.shape) ** 0.5
                kernel.add_(matrix.reshape(kernel.shape), alpha=-group["lr"] * scale)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near 1, by Newton and Schulz's iteration, in its dtype."""
    a, b, c = _QUINTIC
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=_LEAST_NORM)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if len(matrix) > matrix.shape[1] else wide
