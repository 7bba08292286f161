"""What resizing in eight bits costs against the published preprocessing, which resizes floats: in pixels and in tokens.

pytest -s tests/integration/test_preprocessing.py -m "slow or not slow"      # prints the figures of ARCHITECTURE.md
"""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import fit
from tests.vidtok_model.support import golden_tokenizer
from vidtok_model.preprocessing import prepare_frames

SIZE, FRAMES = 256, 17
CLIPS = ["bigbuckbunny.mp4", "bikes.mp4", "box.mp4", "carphone_pristine.mp4", "cityCC0.mpg", "tree.avi", "world.mp4"]


def stored_frames(path: Path) -> np.ndarray:
    """The first frames of a video in its own size, uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame, _ in zip(decoded, range(FRAMES), strict=False)])


def published(frames_THWC: np.ndarray) -> np.ndarray:
    """float32 (T, SIZE, SIZE, 3), 0 to 255, not rounded, as `vidtok evaluate` prepares frames."""
    clip_CTHW = prepare_frames(torch.from_numpy(frames_THWC), SIZE)
    return ((clip_CTHW.permute(1, 2, 3, 0) + 1) * 127.5).numpy()


def by_hand(frames_THWC: np.ndarray) -> np.ndarray:
    """The same with Pillow's resize of floats, a channel at a time: another library's bilinear antialiased filter."""
    height, width = frames_THWC.shape[1:3]
    scaled = [int(SIZE * side / min(height, width)) for side in (height, width)]
    top, left = (round((side - SIZE) / 2) for side in scaled)
    planes = [
        Image.fromarray(plane).resize(scaled[::-1], Image.Resampling.BILINEAR)
        for plane in frames_THWC.transpose(0, 3, 1, 2).reshape(-1, height, width).astype(np.float32)
    ]
    kept = np.stack([np.asarray(plane)[top : top + SIZE, left : left + SIZE] for plane in planes])
    return kept.reshape(len(frames_THWC), 3, SIZE, SIZE).transpose(0, 2, 3, 1)


def test_the_evaluations_frames_are_the_published_ones(shared_videos: Path) -> None:
    """Within 1/255; the published scripts call the same function of PyTorch through torchvision."""
    for name in CLIPS:
        frames = stored_frames(shared_videos / name)[:5]
        difference = np.abs(published(frames) - by_hand(frames))
        assert published(frames).shape == (5, SIZE, SIZE, 3) and difference.max() <= 0.05, name


def test_frames_of_that_size_are_only_scaled() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    clip = prepare_frames(torch.from_numpy(frames), 32)
    assert torch.equal(((clip + 1) * 127.5).round().to(torch.uint8), torch.from_numpy(frames).permute(3, 0, 1, 2))
    for wrong in (frames[0], frames.astype(np.float32), frames[..., :2]):
        with pytest.raises(ValueError, match=r"frames have shape \(.*\) and torch\.\w+: expected \(T, H, W, 3\) uint8"):
            prepare_frames(torch.from_numpy(wrong), 32)


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
