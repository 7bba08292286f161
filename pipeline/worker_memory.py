"""What a worker's memory is bounded by, term by term, as its queues and the sizes of what goes through them give it."""

import math
from dataclasses import dataclass

from pipeline.ahead import AHEAD_BYTES
from pipeline.config import JobConfig
from pipeline.decoding.windows import WINDOW_BYTES, WINDOWS
from pipeline.listed_videos import FETCHED_AHEAD_BYTES
from pipeline.storage import BLOCK_BYTES
from vidtok_model import TokenizerConfig

__all__ = ["MemoryTerm", "worker_memory"]

# Python with PyTorch, Arrow, PyAV and the store's library, as measured on Linux.
_LIBRARIES_BYTES = 450 * 2**20
# An encode's peak to its largest activation, as measured (ARCHITECTURE.md: 0.86 GB of 0.57).
_PEAK_OF_LARGEST = 1.6


@dataclass(frozen=True, kw_only=True)
class MemoryTerm:
    """Bytes of one worker at most, and of what."""

    name: str
    size_bytes: int
    what: str


def worker_memory(
    job: JobConfig,
    *,
    weights_bytes: int,
    video_bytes: int,
    frame_bytes: int,
    rows_bytes: int,
) -> list[MemoryTerm]:
    """The terms, whose sum is the bound, for videos no larger than these.

    Args:
        job: the job.
        weights_bytes: of the checkpoint.
        video_bytes: of the largest encoded video.
        frame_bytes: of the largest frame, resized and cropped.
        rows_bytes: payload of one video's rows.
    """
    config, executor = job.model.tokenizer_config(), job.executor
    decoders, batch_size = executor.num_decoders, executor.batch_size or 1
    clip = job.clip_frames * frame_bytes
    batch = batch_size * clip
    window = max(WINDOW_BYTES, frame_bytes)
    if job.input.kind == "shards":
        fetched, fetching = BLOCK_BYTES, "a block of the tar"
    else:
        fetched, fetching = max(FETCHED_AHEAD_BYTES, video_bytes), "those fetched (256 MiB, or one)"
    ahead = max(AHEAD_BYTES, video_bytes)
    waiting = max(AHEAD_BYTES, batch)
    payload = max(job.rows.part_bytes, rows_bytes) + rows_bytes
    activations = _activations(config, job, frame_bytes) * batch_size
    return [
        MemoryTerm(name="libraries", size_bytes=_LIBRARIES_BYTES, what="Python, PyTorch, Arrow, as measured"),
        MemoryTerm(name="weights", size_bytes=2 * weights_bytes, what="the checkpoint, and as a CPU packs it"),
        MemoryTerm(
            name="encoder",
            size_bytes=activations + 5 * batch,
            what=f"{_PEAK_OF_LARGEST} of the largest activation of {batch_size} clips, and these as floats; "
            "on a GPU it is the GPU's memory",
        ),
        MemoryTerm(
            name="encoded videos",
            size_bytes=fetched + ahead + (2 + decoders) * video_bytes,
            what=f"{fetching}, those read ahead (64 MiB, or one), one being read, one handed over, one in each decoder",
        ),
        MemoryTerm(
            name="windows of frames",
            size_bytes=(decoders * WINDOWS + 2) * window + clip,
            what=f"{WINDOWS} a decoder, and those that a clip's frames lie in",
        ),
        MemoryTerm(
            name="clips",
            size_bytes=waiting + 3 * batch + clip,
            what="batches that wait for the encoder (64 MiB, or one), one being filled, one encoded, one let go",
        ),
        MemoryTerm(
            name="rows",
            size_bytes=AHEAD_BYTES + 4 * payload,
            what="codes that wait to be written (64 MiB), and a part with one video more: as rows, columns and a file",
        ),
        MemoryTerm(
            name="decoders",
            size_bytes=decoders * executor.decoder_memory_bytes,
            what=f"{decoders} processes of {executor.decoder_memory_bytes // 2**20:,} MiB at most, mostly far less",
        ),
    ]


def _activations(config: TokenizerConfig, job: JobConfig, frame_bytes: int) -> int:
    """Of one clip, at the encoder's peak."""
    frames = job.clip_frames + config.front_frames(job.clip_frames)
    largest = config.base_channels * config.channel_multipliers[0] * frames * math.ceil(frame_bytes / 3)
    return int(_PEAK_OF_LARGEST * largest * (2 if job.model.dtype in ("bf16", "fp16") else 4))
