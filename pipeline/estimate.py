"""What a job will write, from what came of some of its videos."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.batches import bytes_per_position, num_positions
from pipeline.plan import Plan
from pipeline.probing import DrawnClip, DrawnCodes, PartSizes, ProbedVideo
from pipeline.records import Clip, EncodedClip, Shard, SourceInfo
from pipeline.sampling import Place, VideoSample

__all__ = ["Estimate", "Quantity", "estimate_job"]

_RESAMPLED = 1000
_SHARE = 0.95
_SHOWN_REJECT = 300  # letters
_Clips = list[tuple[Clip, EncodedClip]]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number, and between which the whole input's lies in 95 of 100 samples such as this; equal where it is exact."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Quantity":
        """The product with a number that is known."""
        return Quantity(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(kw_only=True)
class Estimate:
    """Of all shards that are left to do.

    Attributes:
        shards: how many.
        input_bytes: of these as they were listed; 0 where that is not known.
        sampled: videos that were looked at.
        is_exact: whether these are all.
        quantities: videos, hours (of video that is kept), frames (taken), rows, tokens, bytes (of parts), rejects, and
            `rejects: CLASS` of each class that was seen.
        parts: files of rows.
        examples: of each class of rejects, one video and why.
        codecs: share of each, of the videos that could be opened.
        sizes: likewise, as WIDTHxHEIGHT.
        rates: likewise, frames a second.
        bytes_are_bound: whether the codes were drawn, of a kind of model whose own compress better.
        largest_video_bytes: of the sample, encoded.
        largest_frame_bytes: of the sample, as decoded and resized.
        largest_rows_bytes: payload of one video of the sample.
    """

    shards: int
    input_bytes: int
    sampled: int
    is_exact: bool
    quantities: dict[str, Quantity]
    parts: int
    examples: dict[str, str] = field(default_factory=dict)
    codecs: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    bytes_are_bound: bool = False
    largest_video_bytes: int = 0
    largest_frame_bytes: int = 0
    largest_rows_bytes: int = 0


def estimate_job(plan: Plan, shards: Sequence[Shard], sample: VideoSample, videos: Sequence[ProbedVideo]) -> Estimate:
    """Scales what came of a sample to all of the shards that it was drawn from."""
    places = list(dict.fromkeys(video.place for video in videos))
    scale = _Scale(sample, places)
    quantities = {name: scale.of(counts) for name, counts in _counts(plan, videos).items()}
    parts = _exact_parts(plan, videos) if sample.is_whole else _expected_parts(plan, shards, sample, quantities)
    row_bytes, part_bytes = _sizes(plan, videos)
    rows = quantities["rows"]
    quantities["bytes"] = Quantity(
        **{end: getattr(rows, end) * row_bytes + parts * part_bytes for end in ("value", "low", "high")}
    )
    config = plan.config.model.tokenizer_config()
    codes = [code for video in videos for _, code in video.rows]
    return Estimate(
        shards=len(shards),
        input_bytes=sum(shard.size_bytes for shard in shards),
        sampled=len(videos),
        is_exact=sample.is_whole,
        quantities=quantities,
        parts=parts,
        examples=_examples(videos),
        **{name: _shares(videos, label) for name, label in _LABELS.items()},
        # KL latents compress no better than drawn ones.
        bytes_are_bound=config.is_discrete and all(isinstance(code, DrawnClip) for code in codes),
        largest_video_bytes=max((video.ref.size_bytes for video in videos), default=0),
        largest_frame_bytes=max((video.frame_bytes for video in videos), default=0),
        largest_rows_bytes=max((_payload(plan, video) for video in videos), default=0),
    )


_LABELS: dict[str, Callable[[SourceInfo], str]] = {
    "codecs": lambda source: source.codec,
    "sizes": lambda source: f"{source.width}x{source.height}",
    "rates": lambda source: f"{source.fps:.4g}",
}


class _Scale:
    """From a sample to the whole: by the share that it is of the input, in which the draws are its uncertainty too."""

    def __init__(self, sample: VideoSample, places: Sequence[Place]) -> None:
        self._numbers = {place: number for number, place in enumerate(places)}
        times = np.array([place.times for place in places], np.float64)
        sizes = np.array([place.size for place in places], np.float64)
        self._is_whole, self._total, self._times, self._sizes = sample.is_whole, sample.total, times, sizes
        if not sample.is_whole and places:
            draws = int(times.sum())
            self._resampled = np.random.default_rng(0).multinomial(draws, times / draws, size=_RESAMPLED)
            # The nearer a sample is to all there are, the less is left to chance.
            self._spread = math.sqrt(max(0.0, 1 - sizes.sum() / sample.total))

    def of(self, counts: Mapping[Place, float]) -> Quantity:
        """What is counted of each place, of the whole."""
        values = np.zeros(len(self._numbers))
        for place, count in counts.items():
            values[self._numbers[place]] = count
        if self._is_whole or not len(values):
            value = float(values.sum())
            return Quantity(value=value, low=value, high=value)
        value = float(self._total * (self._times @ values) / (self._times @ self._sizes))
        found = self._total * (self._resampled @ values) / (self._resampled @ self._sizes)
        ends = np.quantile(found, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
        low, high = (value + self._spread * float(end - value) for end in ends)
        return Quantity(value=value, low=max(0.0, low), high=high)


def _counts(plan: Plan, videos: Sequence[ProbedVideo]) -> dict[str, Counter[Place]]:
    config = plan.config.model.tokenizer_config()
    counts: dict[str, Counter[Place]] = {
        name: Counter() for name in ("videos", "hours", "frames", "rows", "tokens", "rejects")
    }
    for video in videos:
        found: dict[str, float] = {"videos": 1}
        if video.reject is not None:
            found |= {"rejects": 1, f"rejects: {video.reject.error}": 1}
        else:
            tokens = sum(num_positions(config, clip) for clip, _ in video.rows)
            found |= {"rows": len(video.rows), "tokens": tokens, "hours": video.seconds / 3600, "frames": video.frames}
        for name, count in found.items():
            counts.setdefault(name, Counter())[video.place] += count  # type: ignore[assignment]  # hours are no int
    return counts


def _payload(plan: Plan, video: ProbedVideo) -> int:
    config = plan.config.model.tokenizer_config()
    position = bytes_per_position(config, logvar=plan.config.rows.logvar)
    return sum(num_positions(config, clip) * position for clip, _ in video.rows)


def _order(video: ProbedVideo) -> int:
    """In its shard."""
    return video.place.start.sample


def _exact_parts(plan: Plan, videos: Sequence[ProbedVideo]) -> int:
    """As `batch_clips` closes them."""
    payloads: dict[str, int] = {}  # of the part under way, of each shard
    closed = 0
    for video in sorted(videos, key=_order):
        shard_id = video.place.shard.shard_id
        payloads[shard_id] = payloads.get(shard_id, 0) + _payload(plan, video)
        if payloads[shard_id] >= plan.config.rows.part_bytes:
            closed += 1
            del payloads[shard_id]
    return closed + len(payloads)


def _expected_parts(
    plan: Plan, shards: Sequence[Shard], sample: VideoSample, quantities: Mapping[str, Quantity]
) -> int:
    position = bytes_per_position(plan.config.model.tokenizer_config(), logvar=plan.config.rows.logvar)
    kept = quantities["videos"].value - quantities["rejects"].value
    if kept <= 0:
        return len(shards)
    of_a_video = max(1.0, quantities["tokens"].value * position / kept)
    of_a_part = math.ceil(plan.config.rows.part_bytes / of_a_video)
    sizes = np.array([shard.videos.count if shard.videos else shard.size_bytes for shard in shards], np.float64)
    return int(np.maximum(1, np.ceil(kept * sizes / sample.total / of_a_part)).sum())


def _sizes(plan: Plan, videos: Sequence[ProbedVideo]) -> tuple[float, float]:
    """Bytes that a row adds to a part, and those of a part beside its rows."""
    if not videos:
        return 0.0, 0.0
    config, sizes = plan.config.model.tokenizer_config(), PartSizes(plan)
    drawn = DrawnCodes(config, seed=0)

    def with_drawn(clips: _Clips) -> _Clips:
        return [(clip, drawn.of(clip)) for clip, _ in clips]

    stand_ins = [replace(video, clips=with_drawn(video.clips)) for video in videos]
    rows = sum(len(video.rows) for video in videos)
    whole = sizes.of(stand_ins)
    first = next((video for video in stand_ins if video.rows), None)
    if first is None:
        return 0.0, float(whole)
    alone = sizes.of([replace(first, clips=first.clips[:1])])
    payload = _payload(plan, replace(first, clips=first.clips[:1]))
    of_a_row = (whole - alone) / (rows - 1) if rows > 1 else min(payload, alone)
    return of_a_row - _spared(videos, sizes, with_drawn), alone - of_a_row


def _spared(videos: Sequence[ProbedVideo], sizes: PartSizes, with_drawn: Callable[[_Clips], _Clips]) -> float:
    """What the model's own codes spare a row, against drawn ones, where some are such; shard by shard, as in parts."""
    of_shards: dict[str, list[ProbedVideo]] = {}
    for video in sorted(videos, key=_order):
        real = [pair for pair in video.rows if not isinstance(pair[1], DrawnClip)]
        if real:
            of_shards.setdefault(video.place.shard.shard_id, []).append(replace(video, clips=real))
    spared = sum(
        sizes.of([replace(video, clips=with_drawn(video.clips)) for video in some]) - sizes.of(some)
        for some in of_shards.values()
    )
    return spared / max(1, sum(len(video.clips) for some in of_shards.values() for video in some))


def _examples(videos: Sequence[ProbedVideo]) -> dict[str, str]:
    examples: dict[str, str] = {}
    for video in videos:
        if video.reject is not None:
            said = f"{video.ref.source_shard}, {video.ref.key!r}: {video.reject.message}"
            examples.setdefault(video.reject.error, said[:_SHOWN_REJECT])
    return examples


def _shares(videos: Sequence[ProbedVideo], label: Callable[[SourceInfo], str]) -> dict[str, float]:
    """The share of each label, the largest first."""
    counts: Counter[str] = Counter()
    for video in videos:
        if video.source is not None:
            counts[label(video.source)] += video.place.times
    return {name: count / counts.total() for name, count in counts.most_common()}
