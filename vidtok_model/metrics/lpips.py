"""LPIPS (arXiv 1801.03924): how differently VGG16 sees two frames. A model can be trained on it.

Shape suffixes: B batch, C channels, T frames, H height, W width; N is B*T.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtok_model.checkpoint import check_weights, read_weight_file
from vidtok_model.metrics.frames import as_frames, check_clips

__all__ = ["LPIPS_SOURCES", "VGG16_STAGES", "Lpips", "load_lpips", "perceptual_distance"]

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""VGG16 (arXiv 1409.1556): the widths of the 3x3 convolutions of each stage. Height and width halve between stages."""

_SUFFIXES = (".pth", ".pt", ".safetensors")
LPIPS_SOURCES = (
    "VGG16's weights are torchvision's vgg16-397923af.pth (VGG16_Weights.IMAGENET1K_V1), the layers of LPIPS "
    "lpips/weights/v0.1/vgg.pth in github.com/richzhang/PerceptualSimilarity (VidTok's own code fetches the same as "
    "vgg.pth); give both files"
)
"""Where the weights come from, for messages."""

_NORM_FLOOR = 1e-10
# The means and deviations that VGG16's inputs were normalised with, taken from pixels in [0, 1] to pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """VGG16's convolutions and the weights of their channels. `load_lpips` gives one with the published weights.

    Its parameters are named as torchvision names VGG16's (`features.0.weight`), and `lins.0` and so on, (1, C, 1, 1)
    for the last width C of each stage, which are zero until weights are loaded.

    Args:
        stages: Widths of the convolutions of each stage; tests use small ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, stages: Sequence[Sequence[int]] = VGG16_STAGES) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []  # whose outputs are compared: of each stage, the last layer
        in_channels = len(_SHIFT)
        for stage, widths in enumerate(stages):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
                in_channels = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.lins = nn.ParameterList(torch.zeros(1, widths[-1], 1, 1) for widths in stages)
        # On a named device: real numbers even where the module is built on the meta device. Files lack them.
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, -1, 1, 1), persistent=False)

    def forward(self, reference_BCTHW: Tensor, decoded_BCTHW: Tensor) -> Tensor:
        """The distance of each pair of frames, all of them at once: the caller chooses the batch.

        Args:
            reference_BCTHW: Clips in [-1, 1], three channels, any float dtype.
            decoded_BCTHW: Clips of the same shape. Not clamped, for that would stop gradients: whoever reports the
                distance of clips that may lie outside clamps them.

        Returns:
            (B, T), 0 for equal frames; float32, or float64 where the weights are.

        Raises:
            ValueError: If the clips aren't floats of one shape (B, 3, T, H, W), or a frame is too small for the stages.
        """
        check_clips(reference_BCTHW, decoded_BCTHW)
        B, C, T, H, W = reference_BCTHW.shape
        smallest = 2 ** (len(self.taps) - 1)
        if len(_SHIFT) != C or min(H, W) < smallest:
            raise ValueError(
                f"clips of shape {tuple(reference_BCTHW.shape)}: LPIPS takes {len(_SHIFT)} channels and frames of "
                f"{smallest}x{smallest} or more"
            )
        reference, decoded = (self.frame_features(as_frames(clips)) for clips in (reference_BCTHW, decoded_BCTHW))
        return perceptual_distance(reference, decoded, list(self.lins)).view(B, T)

    def frame_features(self, frames_NCHW: Tensor) -> list[Tensor]:
        """What is compared of frames in [-1, 1]: after the last activation of each stage, (N, C, H / 2^stage, ...)."""
        x_NCHW = (frames_NCHW.to(self.shift.dtype) - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.features):
            x_NCHW = layer(x_NCHW)
            if index in self.taps:
                found.append(x_NCHW)
        return found


def perceptual_distance(
    features_a: Sequence[Tensor], features_b: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    """The sum over layers of the mean over positions of sum_c w_c (a_c / |a| - b_c / |b|)^2 (arXiv 1801.03924).

    The weights stand outside the square, as the published ones were trained; 1e-10 is added to each norm |a| of a
    position's channels. In float32, or float64 where the features are.

    Args:
        features_a: Of each layer (N, C, H, W), any float dtype; C, H and W may differ between layers.
        features_b: As many of the same shapes.
        weights: Of each layer (1, C, 1, 1).

    Returns:
        (N,).
    """
    distances_LN = [
        (weight * (_unit(a_NCHW) - _unit(b_NCHW)).square()).sum(dim=1).mean(dim=(1, 2))
        for a_NCHW, b_NCHW, weight in zip(features_a, features_b, weights, strict=True)
    ]
    return torch.stack(distances_LN).sum(dim=0)


def _unit(x_NCHW: Tensor) -> Tensor:
    """Each position's channels at length 1."""
    x_NCHW = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    # Not the root of a sum of squares: where all channels are zero, the gradient of that is NaN.
    norm_N1HW: Tensor = torch.linalg.vector_norm(x_NCHW, dim=1, keepdim=True)
    return x_NCHW / (norm_N1HW + _NORM_FLOOR)


def load_lpips(paths: str | Path | Iterable[str | Path], *, device: str | torch.device = "cpu") -> Lpips:
    """LPIPS on VGG16 with the weights of local files.

    Args:
        paths: One or more files, `.pth`, `.pt` or `.safetensors`, which together hold torchvision's VGG16
            (`features.N.weight` and `.bias`; its `classifier.*` is left out) and the layers of LPIPS
            (`linN.model.1.weight` or `lins.N.model.1.weight`). The state dict of an `Lpips` will do as well. Of a name
            in several files, the last counts.
        device: Where the network goes.

    Returns:
        The network in evaluation mode, float32, its weights not asking for gradients.

    Raises:
        ValueError: If a file isn't there or can't be read as plain tensors, or names and shapes aren't those of VGG16
            and LPIPS; the message lists them, and says where the files come from.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= {_published_name(str(key)): value for key, value in read_weight_file(file, _SUFFIXES).items()}
    weights = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    # On the meta device a model costs neither memory nor the drawing of initial values, which are replaced anyway.
    with torch.device("meta"):
        lpips = Lpips()
    expected = lpips.state_dict()
    try:
        published = {_published_name(key): value for key, value in expected.items()}
        check_weights(weights, published, f"{', '.join(map(str, files)) or 'no file'}: not LPIPS on VGG16")
    except ValueError as error:
        raise ValueError(f"{error}. {LPIPS_SOURCES}") from error
    own = {key: weights[_published_name(key)].to(device, torch.float32) for key in expected}
    lpips.load_state_dict(own, assign=True)
    return lpips.to(device).eval().requires_grad_(False)


def _published_name(name: str) -> str:
    return re.sub(r"^lins\.(\d+)(?:\.model\.1\.weight)?$", r"lin\1.model.1.weight", name)
