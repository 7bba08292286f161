"""Latents to mean 0 and deviation 1, and back.

Legend of shapes: B rows of a batch, C channels, T latent frames, H and W rows and columns of the latent grid.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from pipeline.statistics import ChannelStatistics, LatentStatistics

__all__ = ["LatentNormalization"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentNormalization:
    """Means and deviations of the channels, of first latent frames and of the rest.

    The first is one frame of the video, the others f (in causal models), so their statistics differ.

    Attributes:
        mean_2C: float32, of first latent frames and of the rest.
        std_2C: float32, positive.
    """

    mean_2C: torch.Tensor
    std_2C: torch.Tensor

    @classmethod
    def of(cls, statistics: LatentStatistics) -> Self:
        """Takes a snapshot's statistics; without first frames those of the others stand for them, and the reverse."""
        both = statistics.first, statistics.rest
        first, rest = (one if one.count else other for one, other in (both, both[::-1]))
        return cls(mean_2C=_tensor(first, rest, "mean_C"), std_2C=_tensor(first, rest, "std_C"))

    def normalized(self, latents_BCTHW: torch.Tensor, is_first_B: torch.Tensor | None = None) -> torch.Tensor:
        """Latents less the mean, by the deviation.

        Args:
            latents_BCTHW: floats.
            is_first_B: whether a row's first latent frame is that of its video or stream; of all rows by default.
        """
        mean, std = self._of_frames(latents_BCTHW, is_first_B)
        return (latents_BCTHW - mean) / std

    def normalized_logvar(self, logvar_BCTHW: torch.Tensor, is_first_B: torch.Tensor | None = None) -> torch.Tensor:
        """The log-variance of normalised latents: less 2 log(deviation), for log(var / std^2) = log var - 2 log std."""
        _, std = self._of_frames(logvar_BCTHW, is_first_B)
        return logvar_BCTHW - 2 * std.log()

    def restored(self, latents_BCTHW: torch.Tensor, is_first_B: torch.Tensor | None = None) -> torch.Tensor:
        """Latents as the tokenizer decodes them, from normalised ones."""
        mean, std = self._of_frames(latents_BCTHW, is_first_B)
        return latents_BCTHW * std + mean

    def _of_frames(
        self, latents_BCTHW: torch.Tensor, is_first_B: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of each latent frame, (B or 1, C, T, 1, 1)."""
        frames = latents_BCTHW.shape[2]
        is_first_B1 = torch.ones(1, 1, dtype=torch.bool) if is_first_B is None else is_first_B.reshape(-1, 1)
        is_first_BT = is_first_B1 & (torch.arange(frames) == 0)
        kind_BT = torch.where(is_first_BT, 0, 1)
        mean, std = (
            values_2C.to(latents_BCTHW.device)[kind_BT.to(latents_BCTHW.device)].transpose(1, 2)[..., None, None]
            for values_2C in (self.mean_2C, self.std_2C)
        )
        return mean, std


def _tensor(first: ChannelStatistics, rest: ChannelStatistics, name: str) -> torch.Tensor:
    values_2C = np.stack([getattr(first, name), getattr(rest, name)])
    if name == "std_C":  # a channel that never varies is only centred
        values_2C = np.where(values_2C > 0, values_2C, 1.0)
    return torch.from_numpy(values_2C).float()
