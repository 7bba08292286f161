"""The features that FVD (arXiv 1812.01717) compares: those of I3D, a network that tells human actions apart.

Shape suffixes: B batch, C channels, T frames, H height, W width, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["I3D_SOURCE", "load_i3d", "video_features"]

I3D_SOURCE = "expected StyleGAN-V's i3d_torchscript.pt; the repository github.com/universome/stylegan-v names its link"
"""Where the file comes from, for messages."""

_FEWEST_FRAMES = 10  # the usual bound: of much fewer, I3D's strides and last pooling along time leave nothing


def load_i3d(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """I3D as StyleGAN-V gives it, in evaluation mode.

    A TorchScript file is a program, if not one in Python: load it from where you would run a program from.

    Args:
        path: A local file, i3d_torchscript.pt.
        device: Where it goes.

    Returns:
        A module to give to `video_features`.

    Raises:
        ValueError: If the file isn't there or isn't TorchScript; the message says where to get it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"I3D {path}: there is no such file; {I3D_SOURCE}")
    try:
        with warnings.catch_warnings():
            # PyTorch has deprecated TorchScript, and the published file is nothing else.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
            i3d = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]  # the rest is a trace through PyTorch
        raise ValueError(f"I3D {path} can't be read as TorchScript ({reason}); {I3D_SOURCE}") from error
    return i3d.to(device).eval()


@torch.no_grad()
def video_features(i3d: Callable[..., Tensor], clips_BCTHW: Tensor) -> Tensor:
    """The features of clips. I3D itself brings frames to its size, 224x224, and pixels to [-1, 1].

    Args:
        i3d: What `load_i3d` gives, on the clips' device.
        clips_BCTHW: Clips in [-1, 1], clamped to it; three channels, 10 frames or more, any float dtype.

    Returns:
        (B, D), float64 on the CPU.

    Raises:
        ValueError: If the clips aren't floats (B, 3, T, H, W), or are shorter than 10 frames.
    """
    shape = tuple(clips_BCTHW.shape)
    if len(shape) != 5 or shape[1] != 3 or not clips_BCTHW.is_floating_point():
        raise ValueError(f"clips of shape {shape}, {clips_BCTHW.dtype}: expected floats in [-1, 1], (B, 3, T, H, W)")
    if shape[2] < _FEWEST_FRAMES:
        raise ValueError(f"clips of {shape[2]} frames, shape {shape}: I3D takes {_FEWEST_FRAMES} or more")
    pixels_BCTHW = (clips_BCTHW.float().clamp(-1, 1) + 1) * 127.5
    features_BD = i3d(pixels_BCTHW, rescale=True, resize=True, return_features=True)
    return features_BD.cpu().double()  # in this order: some devices have no float64
