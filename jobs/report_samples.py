"""Originals against reconstructions: some rows of a dataset decoded, beside the frames that they were made of."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.encode import frames_to_clips
from pipeline.errors import VidtokError
from pipeline.reading.source import Source
from pipeline.reconstruct import decode_found, load_decoder
from pipeline.records import Frames
from pipeline.row_samples import RowSample, sample_rows
from pipeline.source_clips import SourceClips
from vidtok_model import VideoTokenizer
from vidtok_model.metrics import psnr

__all__ = ["SampledClip", "Samples", "compare"]

_SHOWN_FRAMES = 3


@dataclass(frozen=True, kw_only=True)
class SampledClip:
    """One row.

    Attributes:
        row: its columns, but for tokens or latents.
        seconds: when in its video the frames stand that are shown.
        originals: these frames; None where they cannot be had.
        reconstructions: the same decoded from the row; None where they cannot be had.
        psnr: mean over all its real frames, in dB; None without both.
    """

    row: Mapping[str, Any]
    seconds: list[float]
    originals: Frames | None
    reconstructions: Frames | None
    psnr: float | None


@dataclass
class Samples:
    """What was found.

    Attributes:
        clips: rows of which there is something to see.
        notes: what could not be had, and why; one line each.
    """

    clips: list[SampledClip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def psnr(self) -> float | None:
        """The mean over the clips; None where there is none."""
        found = [clip.psnr for clip in self.clips if clip.psnr is not None]
        return sum(found) / len(found) if found else None


def compare(
    source: Source,
    count: int,
    *,
    checkpoint: str | None,
    device: str,
    options: Mapping[str, Any],
    patterns: str | None,
    most_seconds: float,
) -> Samples:
    """Takes rows from all over a dataset; what cannot be had any more is told of, and raises nothing.

    Args:
        source: the dataset's newest snapshot.
        count: of rows.
        checkpoint: where the weights lie now, if no longer where they were.
        device: a torch device.
        options: how to reach the checkpoint's store.
        patterns: where the input lies now, if it has moved.
        most_seconds: no row is begun after this time.
    """
    ends = time.monotonic() + most_seconds
    samples = Samples()
    tokenizer = clips = None
    try:
        tokenizer = load_decoder(source.description, checkpoint=checkpoint, device=device, options=options)
    except VidtokError as error:
        samples.notes.append(f"There are no reconstructions: {error}")
    try:
        clips = SourceClips(source.dataset, patterns=patterns)
    except VidtokError as error:
        samples.notes.append(f"There are no originals: {error}")
    if tokenizer is None and clips is None:
        return samples
    try:
        for number, sample in enumerate(sample_rows(source, count)):
            if time.monotonic() > ends:
                samples.notes.append(f"After {most_seconds:.0f} s only {number} of {count} rows were looked at.")
                break
            samples.clips += _compared(sample, tokenizer, clips, samples.notes)
    except VidtokError as error:
        samples.notes.append(f"No more rows can be read: {error}")
    return samples


def _compared(
    sample: RowSample, tokenizer: VideoTokenizer | None, clips: SourceClips | None, notes: list[str]
) -> list[SampledClip]:
    """The row; nothing where there is nothing to see of it."""
    row = sample.row
    original = decoded = None
    try:
        original = None if clips is None else clips.find(row, sample.part).frames_THWC
    except VidtokError as error:
        notes.append(f"The original of {row['source_key']!r}, clip {row['clip_index']}, cannot be had: {error}")
    try:
        decoded = None if tokenizer is None else decode_found(sample.rows, sample.place, tokenizer)
    except VidtokError as error:
        notes.append(f"{row['source_key']!r}, clip {row['clip_index']}, cannot be decoded: {error}")
    if original is None and decoded is None:
        return []
    real = row["num_frames"] - row["num_padded_frames"]
    # Of a stream's last row, what the model gives may be shorter than what it took.
    real = min(real, *(len(frames) for frames in (original, decoded) if frames is not None))
    quality = None
    if original is not None and decoded is not None:
        pair = (frames_to_clips(torch.from_numpy(frames[:real])[None]) for frames in (original, decoded))
        quality = float(psnr(*pair).mean())
    shown = np.unique(np.linspace(0, real - 1, _SHOWN_FRAMES).round().astype(int))
    return [
        SampledClip(
            row={name: value for name, value in row.items() if name not in ("tokens", "latents", "logvar")},
            seconds=[float(row["start_seconds"] + row["frame_seconds"][number]) for number in shown],
            originals=None if original is None else original[shown],
            reconstructions=None if decoded is None else decoded[shown],
            psnr=quality,
        )
    ]
