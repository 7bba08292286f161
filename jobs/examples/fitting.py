"""The loop in which both examples learn."""

import itertools
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["fit"]

_RATE = 1e-3
_SHOWN_EVERY = 50


def fit(model: nn.Module, losses: Iterable[Tensor], *, steps: int, unit: str) -> list[float]:
    """Takes a step of AdamW for each loss, and tells now and then how large it is.

    Args:
        model: learns.
        losses: computed from the model as it then is, one after the other.
        steps: how many.
        unit: what a loss is, for the line that tells of it.

    Returns:
        The losses.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    found: list[float] = []
    for step, loss in enumerate(itertools.islice(losses, steps)):
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        found.append(loss.item())
        if step % _SHOWN_EVERY == 0 or step == steps - 1:
            sys.stdout.write(f"step {step}: {found[-1]:.3f} {unit}\n")
    return found
