"""How well the released models are published to reconstruct (arXiv 2412.13061; version 1.1: its repository)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PUBLISHED_QUALITY", "Quality"]


@dataclass(frozen=True)
class Quality:
    """Reconstruction of the 30 videos of MCL-JCV, at 30 frames a second and 256x256.

    Clips of 17 frames (16 of non-causal models), or whole videos (version 1.1); KL models decode samples.
    """

    psnr: float
    """In dB; more is better."""

    ssim: float
    """At most 1; more is better."""

    lpips: float
    """Less is better."""

    fvd: float
    """Less is better."""


PUBLISHED_QUALITY: Mapping[str, Quality] = MappingProxyType(
    {
        "vidtok_kl_causal_488_4chn": Quality(29.64, 0.852, 0.114, 194.2),
        "vidtok_kl_causal_488_8chn": Quality(31.83, 0.897, 0.083, 109.3),
        "vidtok_kl_causal_488_16chn": Quality(35.04, 0.942, 0.047, 78.9),
        "vidtok_kl_causal_288_8chn": Quality(33.86, 0.928, 0.057, 80.7),
        "vidtok_kl_causal_444_4chn": Quality(34.78, 0.941, 0.051, 87.2),
        "vidtok_kl_causal_41616_4chn": Quality(25.05, 0.711, 0.228, 549.1),
        "vidtok_kl_noncausal_488_4chn": Quality(30.60, 0.876, 0.098, 157.9),
        "vidtok_kl_noncausal_488_16chn": Quality(36.13, 0.950, 0.044, 60.5),
        "vidtok_kl_noncausal_41616_4chn": Quality(26.06, 0.751, 0.190, 423.2),
        "vidtok_kl_noncausal_41616_16chn": Quality(30.69, 0.878, 0.095, 147.1),
        "vidtok_fsq_causal_488_262144": Quality(29.82, 0.867, 0.106, 160.1),
        "vidtok_fsq_causal_488_32768": Quality(29.16, 0.854, 0.117, 196.9),
        "vidtok_fsq_causal_488_4096": Quality(28.36, 0.832, 0.133, 218.1),
        "vidtok_fsq_causal_41616_262144": Quality(25.38, 0.738, 0.206, 430.1),
        "vidtok_fsq_noncausal_488_262144": Quality(30.78, 0.889, 0.091, 132.1),
        "vidtok_fsq_noncausal_41616_262144": Quality(26.37, 0.772, 0.171, 357.0),
        "vidtok_kl_causal_488_16chn_v1_1": Quality(35.13, 0.941, 0.049, 87.4),
        "vidtok_kl_causal_41616_16chn_v1_1": Quality(29.61, 0.854, 0.113, 162.7),
        "vidtok_kl_causal_288_8chn_v1_1": Quality(34.59, 0.935, 0.051, 78.2),
        "vidtok_fsq_causal_488_32768_v1_1": Quality(29.39, 0.856, 0.114, 168.5),
        "vidtok_fsq_causal_888_32768_v1_1": Quality(27.95, 0.817, 0.142, 293.2),
    }
)
"""By name; of two models of version 1.1 nothing is published."""
