"""How near a decoded clip is to its reference: PSNR, SSIM and LPIPS of each frame, and FVD of two sets of clips.

    psnr_BT = psnr(reference_BCTHW, decoded_BCTHW)      # dB
    ssim_BT = ssim(reference_BCTHW, decoded_BCTHW)
    lpips = load_lpips(["vgg16-397923af.pth", "vgg.pth"])
    lpips_BT = lpips(reference_BCTHW, decoded_BCTHW)

    i3d, fvd = load_i3d("i3d_torchscript.pt"), FrechetDistance()
    for reference_BCTHW, decoded_BCTHW in batches:
        fvd.update(video_features(i3d, reference_BCTHW), video_features(i3d, decoded_BCTHW))
    fvd.compute()

Clips are floats in [-1, 1], (B, C, T, H, W). No weights are carried: the loaders say where they come from.
"""

from vidtok_model.metrics.frames import psnr, ssim
from vidtok_model.metrics.frechet import FeatureStatistics, FrechetDistance, frechet_distance
from vidtok_model.metrics.i3d import load_i3d, video_features
from vidtok_model.metrics.lpips import Lpips, load_lpips, perceptual_distance

__all__ = [
    "FeatureStatistics",
    "FrechetDistance",
    "Lpips",
    "frechet_distance",
    "load_i3d",
    "load_lpips",
    "perceptual_distance",
    "psnr",
    "ssim",
    "video_features",
]
