"""One video through a model and back, to look at."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.errors import ConfigError, SampleError
from pipeline.reconstruct import reconstructed
from pipeline.records import DecodedFrame
from pipeline.secrets import redact_url
from pipeline.storage import absolute_url, open_store
from pipeline.video_file import Sound, VideoWriter
from vidtok_model import VideoTokenizer

__all__ = ["Reconstruction", "reconstruct_video"]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What was written.

    Attributes:
        num_frames: how many frames.
        psnr: mean over the frames in dB, before H.264 took its share.
        damage: why the video ended early, or None.
    """

    num_frames: int
    psnr: float
    damage: str | None


def reconstruct_video(
    video: str,
    target: Path,
    tokenizer: VideoTokenizer,
    decode: DecodeOptions,
    *,
    side_by_side: bool = False,
    with_sound: bool = True,
    sample: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Reconstruction:
    """Encodes and decodes a video of any length and writes it with its own times and sound.

    Args:
        video: a path or URL.
        target: the file to write, MP4 or .mkv.
        tokenizer: the model.
        decode: which frames, and how they are to look.
        side_by_side: whether each frame's original stands to its left.
        with_sound: whether its sound goes along.
        sample: whether to decode a sample of a KL model's distribution, not its mean.
        options: how to reach the video's store.

    Raises:
        ConfigError: there is no such video, or the target cannot be written.
        SampleError: the video has no frame that can be decoded.
        StorageError: the store failed.
    """
    url = absolute_url(video)
    folder, _, name = url.rpartition("/")
    store = open_store(folder or "/", options)
    info = store.info(name)
    if info is None:
        raise ConfigError(f"{redact_url(url)}: there is no such file")
    if store.is_local and target.resolve() == Path(url).resolve():
        raise ConfigError(f"--out {target}: is the video itself")
    problems: list[SampleError] = []
    psnrs: list[float] = []
    with store.open(name) as file, store.open(name) as again, closing(Sound(cast(IO[bytes], again))) as sound:
        frames = _until_damage(decode_frames(cast(IO[bytes], file), info.size_bytes, decode), problems)
        pairs = reconstructed(frames, tokenizer, sample=sample)
        first = next(pairs, None)
        if first is None:
            problem = problems[0]
            raise SampleError(problem.stage, problem.error, f"{redact_url(url)}: {problem.message}")
        with VideoWriter(target, sound=sound if with_sound else None) as writer:
            for frame, pixels_HWC in chain([first], pairs):
                error = np.mean(np.square(pixels_HWC.astype(np.float32) - frame.pixels_HWC)) / 255**2
                psnrs.append(-10 * float(np.log10(error + 1e-8)))
                shown = np.concatenate([frame.pixels_HWC, pixels_HWC], axis=1) if side_by_side else pixels_HWC
                writer.write(shown, frame.seconds)
    damage = str(problems[0]) if problems else None
    return Reconstruction(num_frames=len(psnrs), psnr=float(np.mean(psnrs)), damage=damage)


def _until_damage(frames: Iterator[DecodedFrame], problems: list[SampleError]) -> Iterator[DecodedFrame]:
    """The frames up to where the video breaks off, or goes on in another size, which goes to `problems`."""
    shape: tuple[int, ...] | None = None
    try:
        for frame in frames:
            if shape not in (None, frame.pixels_HWC.shape):
                raise SampleError("decode", "unreadable", f"frames of another size from {frame.seconds:.2f} s on")
            shape = frame.pixels_HWC.shape
            yield frame
    except SampleError as error:
        problems.append(error)
