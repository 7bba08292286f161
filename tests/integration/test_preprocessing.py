"""What resizing in eight bits costs against the published preprocessing, which resizes floats: in pixels and in tokens.

pytest -s tests/integration/test_preprocessing.py -m "slow or not slow"      # prints the figures of ARCHITECTURE.md
"""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import fit
from tests.vidtok_model.support import golden_tokenizer

SIZE, FRAMES = 256, 17
CLIPS = ["bigbuckbunny.mp4", "bikes.mp4", "box.mp4", "carphone_pristine.mp4", "cityCC0.mpg", "tree.avi", "world.mp4"]


def stored_frames(path: Path) -> np.ndarray:
    """The first frames of a video in its own size, uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame, _ in zip(decoded, range(FRAMES), strict=False)])


def published(frames_THWC: np.ndarray) -> np.ndarray:
    """As scripts/inference_reconstruct.py of github.com/microsoft/VidTok does it, but for the normalisation.

    There, torchvision's Resize (which calls this function) takes floats in [0, 1], and CenterCrop the middle.

    Returns:
        float32 (T, SIZE, SIZE, 3), 0 to 255, not rounded.
    """
    height, width = frames_THWC.shape[1:3]
    scaled = [int(SIZE * side / min(height, width)) for side in (height, width)]
    planes_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 255
    planes_TCHW = F.interpolate(planes_TCHW, size=scaled, mode="bilinear", antialias=True)
    top, left = (round((side - SIZE) / 2) for side in scaled)
    return planes_TCHW[:, :, top : top + SIZE, left : left + SIZE].permute(0, 2, 3, 1).numpy() * 255


def ours(frames_THWC: np.ndarray) -> np.ndarray:
    return np.stack([fit(pixels, DecodeOptions(size=SIZE)) for pixels in frames_THWC]).astype(np.float32)


def test_pixels_differ_by_the_rounding_of_two_passes(shared_videos: Path) -> None:
    for name in CLIPS:
        frames = stored_frames(shared_videos / name)
        wanted = published(frames)
        difference, rounding = np.abs(ours(frames) - wanted), np.abs(wanted.round() - wanted)
        print(
            f"{name}: max {difference.max():.2f}, mean {difference.mean():.2f} of 255; "
            f"rounding alone: max {rounding.max():.2f}, mean {rounding.mean():.2f}"
        )
        # Pillow rounds after each of its two passes: 0.5 that the second pass averages, and 0.5. The rest is float32.
        assert difference.max() <= 1.01
        assert difference.mean() <= rounding.mean() + 0.05


def tokens(frames_THWC: np.ndarray) -> np.ndarray:
    tokenizer = golden_tokenizer("vidtok_fsq_causal_488_32768")
    clips_BCTHW = torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        return tokenizer.encode(clips_BCTHW).tokens.numpy()


@pytest.mark.slow
def test_tokens_change_little_more_than_by_rounding(shared_videos: Path) -> None:
    """With random weights, at 16 channels: no released weights are here, and theirs may be steadier or less so."""
    changed, by_rounding = [], []
    for name in CLIPS:
        frames = stored_frames(shared_videos / name)
        wanted = published(frames)
        reference = tokens(wanted)
        assert np.unique(reference).size > 400, "tokens that say something"
        changed.append((tokens(ours(frames)) != reference).mean())
        by_rounding.append((tokens(wanted.round()) != reference).mean())
        print(f"{name}: {changed[-1]:.1%} of {reference.size} tokens; by rounding alone {by_rounding[-1]:.1%}")
    print(f"all: {np.mean(changed):.1%}; by rounding alone {np.mean(by_rounding):.1%}")
    assert np.mean(changed) <= np.mean(by_rounding) + 0.01 <= 0.05
