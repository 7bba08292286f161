"""From what a model made to a video that one can look at."""

from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline import TokenDataset
from pipeline.dataset import Dataset
from pipeline.reconstruct import decode_row, load_decoder
from pipeline.storage import open_store
from pipeline.video_file import write_video

__all__ = ["write_clip"]

_FPS = 8


def write_clip(dataset: Path, values: Tensor, target: Path) -> int:
    """Decodes tokens (T, H, W) or latents (C, T, H, W) as a dataset's own rows are; returns the number of frames."""
    row = {"num_frames": TokenDataset(dataset, columns=["num_frames"])[0]["num_frames"]}
    row |= dict(zip(("latent_t", "latent_h", "latent_w"), values.shape[-3:], strict=True))
    row |= {"tokens": values.flatten().tolist()} if values.dim() == 3 else {"latents": values.half().numpy().tobytes()}
    frames = decode_row(row, load_decoder(Dataset.open(open_store(str(dataset))).description))
    write_video(target, frames, np.arange(len(frames)) / _FPS)
    return len(frames)
