"""High dynamic range to standard: one stated tone mapping.

Light from the signal by the transfer function of BT.2100 (PQ, or HLG with its OOTF for a display of 1,000 cd/m2);
primaries of BT.2020 to BT.709 by the matrix of BT.2087; brightness by the curve of Reinhard, extended so that
1,000 cd/m2 becomes white; and the signal of BT.709 as sRGB displays show it (BT.1886, exponent 2.4, inverted).
"""

import numpy as np
import numpy.typing as npt

__all__ = ["TRANSFERS", "tone_mapped"]

_PQ, _HLG = 16, 18
# Transfer characteristics (ITU-T H.273) of high dynamic range.
TRANSFERS = (_PQ, _HLG)

# Reference white of BT.2408, which becomes 1.0 before the curve, and the brightest light that is told apart.
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT709_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def tone_mapped(signal_HWC: npt.NDArray[np.uint16], transfer: int) -> npt.NDArray[np.uint8]:
    """A frame's RGB signal (uint16, full range, BT.2020) as standard RGB (uint8, BT.709).

    Args:
        signal_HWC: (H, W, 3).
        transfer: 16 (PQ) or 18 (HLG).
    """
    table = (_pq_nits if transfer == _PQ else _hlg_scene)(np.linspace(0, 1, 65536, dtype=np.float32))
    light = table[signal_HWC]
    if transfer == _HLG:
        luma = np.maximum(light @ _BT2020_LUMA, 1e-6)
        light = _PEAK_NITS * luma[..., None] ** np.float32(0.2) * light  # the OOTF, with its exponent 1.2
    light = np.maximum((light / np.float32(_WHITE_NITS)) @ _BT2020_TO_BT709.T, 0)
    luma = np.maximum(light @ _BT709_LUMA, 1e-6)
    peak = np.float32(_PEAK_NITS / _WHITE_NITS)
    mapped = luma * (1 + luma / peak**2) / (1 + luma)
    shown = np.clip(light * (mapped / luma)[..., None], 0, 1)
    signal: npt.NDArray[np.uint8] = np.round(255 * shown ** np.float32(1 / 2.4)).astype(np.uint8)
    return signal


def _pq_nits(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """SMPTE ST 2084: the light of a PQ signal, in cd/m2."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal.astype(np.float64) ** (1 / m2)
    return (10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)).astype(np.float32)


def _hlg_scene(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """ARIB STD-B67: the light of the scene, from 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    bright = (np.exp((signal.astype(np.float64) - c) / a) + b) / 12
    return np.where(signal <= 0.5, signal.astype(np.float64) ** 2 / 3, bright).astype(np.float32)
