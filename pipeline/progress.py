"""Counts of work done, small enough to be sent around every second."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Counters"]


@dataclass(kw_only=True)
class Counters:
    """Work done in this run, shards that are still under way included.

    Attributes:
        videos: input videos that ended as rows or as a reject.
        rejects: of these, the rejected, by class.
        clips: clips encoded.
        tokens: codebook indices (FSQ) or latent positions (KL) of these clips.
        bytes_read: encoded bytes of these videos.
    """

    videos: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    clips: int = 0
    tokens: int = 0
    bytes_read: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        """The counts of both."""
        return Counters(
            videos=self.videos + other.videos,
            rejects=self.rejects + other.rejects,
            clips=self.clips + other.clips,
            tokens=self.tokens + other.tokens,
            bytes_read=self.bytes_read + other.bytes_read,
        )
