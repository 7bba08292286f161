"""A job's encoder on this machine's device, timed as it encodes the clips of a sample."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.plan import Plan
from pipeline.probing import DrawnCodes
from pipeline.records import Batch, EncodedClip
from pipeline.weights import load_job_weights
from pipeline.worker import make_encoder

__all__ = ["MeasuredEncoder", "Speed"]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast clips were encoded.

    Attributes:
        clips_per_second: by one worker, that encodes all the time.
        clips: that were encoded while it was timed.
        device: what it was measured on, in words.
        is_gpu: whether that is a GPU.
    """

    clips_per_second: float
    clips: int
    device: str
    is_gpu: bool


class MeasuredEncoder:
    """Encodes for so many seconds, and draws codes then: the sample is to come to its end.

    Attributes:
        batch_size: as a worker of the job would have it here.
    """

    def __init__(self, plan: Plan, *, seconds: float) -> None:
        """Loads the job's model, onto a GPU where there is one.

        Raises:
            ConfigError: the weights are gone or other ones.
            StorageError: their store cannot be reached.
        """
        self._job = plan.config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = load_job_weights(plan.config, plan.description, device=self._device, has_decoder=False)
        self._encoder = make_encoder(self._job, tokenizer, self._device)
        self._drawn = DrawnCodes(tokenizer.config, seed=0)
        self._seconds = seconds
        self._took: list[float] = []  # each batch
        self.batch_size = self._encoder.batch_size

    def __call__(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[EncodedClip]]]:
        """Stands in for `encode`, a batch after another."""
        self._encoder.begin_thread()
        for batch in batches:
            codes: list[EncodedClip] = [self._drawn.of(clip) for clip in batch.clips]
            if batch.clips and sum(self._took) < self._seconds:
                began = time.monotonic()
                codes = self._encoder.begin(batch.clips)()
                self._took.append(time.monotonic() - began)
            batch.clips = [clip.without_frames() for clip in batch.clips]
            yield batch, codes

    @property
    def speed(self) -> Speed | None:
        """What came of it, without the first batch, which warms up, where there are others; None without any."""
        took = self._took[1:] or self._took
        if not took:
            return None
        is_gpu = self._device == "cuda"
        name = torch.cuda.get_device_name() if is_gpu else f"{self._job.executor.threads} threads of {_cpu_name()}"
        return Speed(
            clips_per_second=self.batch_size * len(took) / sum(took),
            clips=self.batch_size * len(took),
            device=f"{name}, {self._job.model.dtype}, batches of {self.batch_size}",
            is_gpu=is_gpu,
        )


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")
