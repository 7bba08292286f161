"""Counts of work done, small enough to be sent around every second."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.records import VideoEnd

__all__ = ["WANTED_REJECTS", "Counters"]

# What a job itself asks for, and what says nothing against it.
WANTED_REJECTS = frozenset({"filtered", "too_short"})


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
        bytes_read: encoded bytes of these videos.
    """

    videos: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    rejects_in_a_row: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    clips: int = 0
    tokens: int = 0
    bytes_read: int = 0

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

    def __add__(self, other: "Counters") -> "Counters":
        """The counts of both."""
        return Counters(
            videos=self.videos + other.videos,
            rejects=self.rejects + other.rejects,
            rejects_in_a_row=max(self.rejects_in_a_row, other.rejects_in_a_row),
            examples={**other.examples, **self.examples},
            clips=self.clips + other.clips,
            tokens=self.tokens + other.tokens,
            bytes_read=self.bytes_read + other.bytes_read,
        )
