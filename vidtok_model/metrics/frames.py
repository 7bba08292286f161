"""PSNR and SSIM of each frame, computed as the published numbers of VidTok are.

Shape suffixes: B batch, C channels, T frames, H height, W width; N is B*T, M is B*T*C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["as_frames", "check_clips", "psnr", "ssim"]

_MSE_FLOOR = 1e-8  # equal frames have 80 dB, not infinity
_POOLED_SIZE = 256  # SSIM is computed at about this height or width, whichever is less
_WINDOW_SIZE = 11
_WINDOW_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (k1 L)^2 and (k2 L)^2 at a data range L of 1


def psnr(reference_BCTHW: Tensor, decoded_BCTHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame: -10 log10(mse + 1e-8), of pixels in [0, 1].

    Args:
        reference_BCTHW: Clips in [-1, 1], any float dtype.
        decoded_BCTHW: Clips of the same shape; clamped to [-1, 1].

    Returns:
        (B, T) in dB, at most 80; float32, or float64 where a clip is.

    Raises:
        ValueError: If the clips aren't floats of one shape (B, C, T, H, W).
    """
    check_clips(reference_BCTHW, decoded_BCTHW)
    error_BCTHW = _pixels(reference_BCTHW) - _pixels(decoded_BCTHW.clamp(-1, 1))
    return -10 * torch.log10(error_BCTHW.square().mean(dim=(1, 3, 4)) + _MSE_FLOOR)


def ssim(reference_BCTHW: Tensor, decoded_BCTHW: Tensor) -> Tensor:
    """Structural similarity of each frame (Wang et al. 2004, doi 10.1109/TIP.2003.819861), of pixels in [0, 1].

    Frames are averaged over squares of max(1, round(min(H, W) / 256)) pixels first, as the authors suggest; what is
    left at the right and below counts for nothing. The window is Gaussian, 11x11 with sigma 1.5, and stays within the
    frame; k1 is 0.01, k2 0.03. The mean is over positions and channels.

    Args:
        reference_BCTHW: Clips in [-1, 1], any float dtype.
        decoded_BCTHW: Clips of the same shape; clamped to [-1, 1].

    Returns:
        (B, T), at most 1; float32, or float64 where a clip is.

    Raises:
        ValueError: If the clips aren't floats of one shape (B, C, T, H, W), or the window doesn't fit into a frame.
    """
    check_clips(reference_BCTHW, decoded_BCTHW)
    B, _, T, H, W = reference_BCTHW.shape
    # Python rounds halves to even numbers: 384 is 2, and so is 640.
    pool = max(1, round(min(H, W) / _POOLED_SIZE))
    if min(H, W) // pool < _WINDOW_SIZE:
        raise ValueError(
            f"clips of shape {tuple(reference_BCTHW.shape)}: SSIM takes frames of {_WINDOW_SIZE}x{_WINDOW_SIZE} or more"
        )
    # Autocast would give the convolutions half precision, and variances are small differences of squares.
    with torch.autocast(reference_BCTHW.device.type, enabled=False):
        x_NCHW = F.avg_pool2d(as_frames(_pixels(reference_BCTHW)), pool)
        y_NCHW = F.avg_pool2d(as_frames(_pixels(decoded_BCTHW.clamp(-1, 1))), pool)
        return _similarity(x_NCHW, y_NCHW).mean(dim=(1, 2, 3)).view(B, T)


def _similarity(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    """The similarity at each position of the window: (N, C, H - 10, W - 10)."""
    mean_x, mean_y = _blur(x_NCHW), _blur(y_NCHW)
    mean_product, mean_squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _blur(x_NCHW * y_NCHW) - mean_product
    variances = _blur(x_NCHW.square() + y_NCHW.square()) - mean_squares
    luminance = (2 * mean_product + _C1) / (mean_squares + _C1)
    return luminance * (2 * covariance + _C2) / (variances + _C2)


def _blur(x_NCHW: Tensor) -> Tensor:
    """The window's weighted mean around each position that it fits around; one axis after the other."""
    N, C, H, W = x_NCHW.shape
    offsets = torch.arange(_WINDOW_SIZE, dtype=torch.float64) - _WINDOW_SIZE // 2
    weights = torch.exp(-offsets.square() / (2 * _WINDOW_SIGMA**2))
    weights = (weights / weights.sum()).to(x_NCHW)
    x_M1HW = F.conv2d(x_NCHW.reshape(N * C, 1, H, W), weights.view(1, 1, -1, 1))
    x_M1HW = F.conv2d(x_M1HW, weights.view(1, 1, 1, -1))
    return x_M1HW.view(N, C, *x_M1HW.shape[2:])


def _pixels(clips: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1], in float32 at least."""
    return (clips.to(torch.promote_types(clips.dtype, torch.float32)) + 1) / 2


def as_frames(clips_BCTHW: Tensor) -> Tensor:
    """The frames (B*T, C, H, W), those of a clip one after the other."""
    return clips_BCTHW.transpose(1, 2).flatten(0, 1)


def check_clips(reference_BCTHW: Tensor, decoded_BCTHW: Tensor) -> None:
    """Refuses what isn't two batches of clips to compare.

    Raises:
        ValueError: If they aren't floats, or not of one shape (B, C, T, H, W).
    """
    for clips in (reference_BCTHW, decoded_BCTHW):
        if clips.dim() != 5 or not clips.is_floating_point():
            raise ValueError(
                f"clips of shape {tuple(clips.shape)}, {clips.dtype}: expected floats in [-1, 1], (B, C, T, H, W)"
            )
    if reference_BCTHW.shape != decoded_BCTHW.shape:
        raise ValueError(
            f"reference clips of shape {tuple(reference_BCTHW.shape)}, decoded ones of "
            f"{tuple(decoded_BCTHW.shape)}: expected one shape"
        )
