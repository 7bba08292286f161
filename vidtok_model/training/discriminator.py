"""The discriminator: a PatchGAN on frames (arXiv 1611.07004).

Shape suffixes: N frames (of all clips), C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LEAST_SIZE", "PatchDiscriminator"]

LEAST_SIZE = 24
"""Height and width of the smallest frame that it can judge: a single patch."""

_KERNEL = 4
_STRIDES = (2, 2, 2, 1, 1)
_WIDTHS = (64, 128, 256, 512, 1)
_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Tells patches of real frames from those of decoded ones.

    Five 4x4 convolutions; those in the middle are normalised by BatchNorm, and so have no bias. A new one has the
    published initial weights: N(0, 0.02), BatchNorm's scales N(1, 0.02), all shifts 0.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        last = len(_WIDTHS) - 1
        for number, (width, stride) in enumerate(zip(_WIDTHS, _STRIDES, strict=True)):
            is_normalised = 0 < number < last
            layers.append(nn.Conv2d(before, width, _KERNEL, stride, padding=1, bias=not is_normalised))
            if is_normalised:
                layers.append(nn.BatchNorm2d(width))
            if number < last:
                layers.append(nn.LeakyReLU(_SLOPE))
            before = width
        self.main = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Gives a logit for each patch, (N, 1, H', W'); high where it takes the patch for real.

        Args:
            frames_NCHW: (N, 3, H, W) in [-1, 1], 24 pixels or more a side.
        """
        logits: Tensor = self.main(frames_NCHW)
        return logits


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
