"""Frames as the published evaluation prepares them; the pipeline resizes in eight bits, which is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["prepare_frames"]


def prepare_frames(frames_THWC: Tensor, size: int) -> Tensor:
    """Resizes, crops and scales frames, all in float32.

    The shorter side becomes `size` and the other one int(size * longer / shorter), bilinear with antialiasing; then the
    middle square is taken, from round((longer - size) / 2) on, and values go from [0, 1] to [-1, 1]. This is what
    torchvision's Resize, CenterCrop and Normalize do in the published scripts (github.com/microsoft/VidTok).

    Args:
        frames_THWC: (T, H, W, 3) uint8.
        size: In pixels.

    Returns:
        (3, T, size, size) float32 in [-1, 1].

    Raises:
        ValueError: If the frames have another shape or dtype.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != torch.uint8:
        raise ValueError(
            f"frames have shape {tuple(frames_THWC.shape)} and {frames_THWC.dtype}: expected (T, H, W, 3) uint8"
        )
    height, width = frames_THWC.shape[1:3]
    shorter = min(height, width)
    scaled = [int(size * side / shorter) for side in (height, width)]
    planes_TCHW = frames_THWC.permute(0, 3, 1, 2).float() / 255
    if scaled != [height, width]:
        planes_TCHW = F.interpolate(planes_TCHW, size=scaled, mode="bilinear", antialias=True)
    top, left = (round((side - size) / 2) for side in scaled)
    kept_TCHW = planes_TCHW[:, :, top : top + size, left : left + size]
    return (kept_TCHW * 2 - 1).permute(1, 0, 2, 3).contiguous()
