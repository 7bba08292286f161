"""Counts of work done, small enough to be sent around every second."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.records import VideoEnd

__all__ = ["WANTED_REJECTS", "Counters"]

# What a job itself asks for, and what says nothing against it.
WANTED_REJECTS = frozenset({"filtered", "too_short"})


_RATES = ("frames", "clips", "tokens", "bytes_read")


@dataclass(kw_only=True)
class Counters:
    """Work done in this run, shards that are still under way included.

    Attributes:
        videos: input videos that ended as rows or as a reject.
        rejects: of these, the rejected, by class.
        rejects_in_a_row: of one worker, the last of its videos that were all rejected; what a job asks for aside.
        examples: of each class, one video and why it was rejected.
        clips: clips encoded.
        tokens: codebook indices (FSQ) or latent positions (KL) of these clips.
        frames: of these clips, without those that pad them.
        bytes_read: encoded bytes of these videos.
        bytes_written: of the parts that were put.
        storage_retries: requests to stores that were sent again, by what they asked for.
        seconds: of all workers, for which they had shards.
        busy_seconds: of these, for how long each stage was at work, rather than waiting for another.
    """

    videos: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    rejects_in_a_row: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    clips: int = 0
    tokens: int = 0
    frames: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    storage_retries: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    busy_seconds: Counter[str] = field(default_factory=Counter)

    def add_time(self, seconds: float, busy_seconds: Mapping[str, float]) -> None:
        """Counts what a Clock took."""
        self.seconds += seconds
        self.busy_seconds.update(busy_seconds)

    def busy_share(self, stage: str) -> float:
        """Of the time for which workers had shards, the share for which a stage was at work."""
        return self.busy_seconds[stage] / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str | None:
        """The stage that the others wait for; None before anything was done."""
        return max(self.busy_seconds, key=self.busy_seconds.__getitem__, default=None)

    def count_end(self, end: VideoEnd) -> None:
        """Counts a video."""
        self.videos += 1
        if end.reject is None:
            self.rejects_in_a_row = 0
            return
        error = end.reject.error
        self.rejects[error] += 1
        self.examples.setdefault(error, f"{end.ref.source_shard}, {end.ref.key!r}: {end.reject.message}"[:300])
        if error not in WANTED_REJECTS:
            self.rejects_in_a_row += 1

    def report(self) -> dict[str, Any]:
        """What a run's record says of its work."""
        return {
            **{
                name: getattr(self, name)
                for name in ("videos", "frames", "clips", "tokens", "bytes_read", "bytes_written")
            },
            "rejects": self.rejects.total(),
            "storage_retries": self.storage_retries.total(),
            "a_worker_second": {name: round(getattr(self, name) / (self.seconds or 1), 3) for name in _RATES},
            "worker_seconds": round(self.seconds, 3),
            "busy_shares": {stage: round(self.busy_share(stage), 3) for stage in self.busy_seconds},
            "bottleneck": self.bottleneck,
        }

    def __add__(self, other: "Counters") -> "Counters":
        """The counts of both."""
        return Counters(
            videos=self.videos + other.videos,
            rejects=self.rejects + other.rejects,
            rejects_in_a_row=max(self.rejects_in_a_row, other.rejects_in_a_row),
            examples={**other.examples, **self.examples},
            clips=self.clips + other.clips,
            tokens=self.tokens + other.tokens,
            frames=self.frames + other.frames,
            bytes_read=self.bytes_read + other.bytes_read,
            bytes_written=self.bytes_written + other.bytes_written,
            storage_retries=self.storage_retries + other.storage_retries,
            seconds=self.seconds + other.seconds,
            busy_seconds=_added(self.busy_seconds, other.busy_seconds),
        )


def _added(one: Counter[str], other: Counter[str]) -> Counter[str]:
    """The sums, zeros too, which + leaves out."""
    total = Counter(one)
    total.update(other)
    return total
