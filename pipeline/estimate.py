"""What a job will write, from what came of some of its videos."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.batches import bytes_per_position, num_positions
from pipeline.plan import Plan
from pipeline.probing import DrawnClip, DrawnCodes, PartSizes, ProbedVideo
from pipeline.records import Shard, SourceInfo
from pipeline.sampling import Place, VideoSample

__all__ = ["Estimate", "Quantity", "estimate_job"]

_RESAMPLED = 1000
_SHARE = 0.95
_SHOWN_REJECT = 300  # letters


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number, and between which the whole input's lies in 95 of 100 samples such as this; equal where it is exact."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """How uncertain it is."""
        return self.high - self.low

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
    counts = _counts(plan, videos)
    scales = [_Scale(places, [place.size for place in places], sample.total, sample)]
    if sample.number is not None:
        scales.append(_Scale(places, [1.0] * len(places), sample.number, sample))
    # Rows go by bytes where all videos are encoded alike, and by their number where they are of one length.
    scale = min(scales, key=lambda scale: scale.of(counts["rows"]).spread)
    quantities = {name: scale.of(of_places) for name, of_places in counts.items()}
    if sample.is_whole:
        groups = _parts(plan, videos)
        parts, size = len(groups), _Bytes(plan).of_all(groups)
        quantities["bytes"] = Quantity(value=size, low=size, high=size)
    else:
        parts = _expected_parts(plan, shards, sample, quantities)
        of_a_row, of_a_part = _Bytes(plan).of_each(videos)
        ends = ((end, getattr(quantities["rows"], end)) for end in ("value", "low", "high"))
        quantities["bytes"] = Quantity(**{end: rows * of_a_row + parts * of_a_part for end, rows in ends})
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

    def __init__(self, places: Sequence[Place], sizes_of: Sequence[float], total: int, sample: VideoSample) -> None:
        self._numbers = {place: number for number, place in enumerate(places)}
        times = np.array([place.times for place in places], np.float64)
        sizes = np.array(sizes_of, np.float64)
        self._is_whole, self._total, self._times, self._sizes = sample.is_whole, total, times, sizes
        if not sample.is_whole and places:
            draws = int(times.sum())
            self._resampled = np.random.default_rng(0).multinomial(draws, times / draws, size=_RESAMPLED)
            # Where none is drawn twice, less is left to chance the nearer a sample is to all there are.
            seen = 0.0 if sample.number is None else sizes.sum() / total
            self._spread = math.sqrt(max(0.0, 1 - seen))

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


def _parts(plan: Plan, videos: Sequence[ProbedVideo]) -> list[list[ProbedVideo]]:
    """The videos of each part, where these are all: as `batch_clips` closes them."""
    under_way: dict[str, list[ProbedVideo]] = {}  # of each shard
    closed = []
    for video in sorted(videos, key=lambda video: video.place.start.sample):
        part = under_way.setdefault(video.place.shard.shard_id, [])
        part.append(video)
        if sum(_payload(plan, one) for one in part) >= plan.config.rows.part_bytes and video.ends_sample:
            closed.append(under_way.pop(video.place.shard.shard_id))
    return closed + list(under_way.values())


def _expected_parts(
    plan: Plan, shards: Sequence[Shard], sample: VideoSample, quantities: Mapping[str, Quantity]
) -> int:
    position = bytes_per_position(plan.config.model.tokenizer_config(), logvar=plan.config.rows.logvar)
    kept = quantities["videos"].value - quantities["rejects"].value
    if kept <= 0:
        return len(shards)
    of_a_video = max(1.0, quantities["tokens"].value * position / kept)
    # A part ends with a video, by half of which it goes beyond on average.
    of_a_part = max(1.0, plan.config.rows.part_bytes / of_a_video + 0.5)
    sizes = np.array([shard.videos.count if shard.videos else shard.size_bytes for shard in shards], np.float64)
    return int(np.maximum(1, np.ceil(kept * sizes / sample.total / of_a_part)).sum())


class _Bytes:
    """Sizes of parts of drawn codes, and what the model's own spare where some clips were encoded."""

    def __init__(self, plan: Plan) -> None:
        self._sizes = PartSizes(plan)
        self._drawn = DrawnCodes(plan.config.model.tokenizer_config(), seed=0)
        self._plan = plan

    def _of(self, videos: Sequence[ProbedVideo]) -> int:
        return self._sizes.of(
            replace(video, clips=[(clip, self._drawn.of(clip)) for clip, _ in video.clips]) for video in videos
        )

    def of_all(self, parts: Sequence[Sequence[ProbedVideo]]) -> float:
        """Of these parts."""
        rows = sum(len(video.rows) for part in parts for video in part)
        return sum(map(self._of, parts)) - rows * self._spared(parts)

    def of_each(self, videos: Sequence[ProbedVideo]) -> tuple[float, float]:
        """What a row adds to a part, and what a part has beside its rows."""
        rows = sum(len(video.rows) for video in videos)
        first = next((video for video in videos if video.rows), None)
        if first is None:
            return 0.0, float(self._of(videos[:1])) if videos else 0.0
        one = replace(first, clips=first.clips[:1])
        alone = self._of([one])
        of_a_row = (self._of(videos) - alone) / (rows - 1) if rows > 1 else _payload(self._plan, one)
        shards: dict[str, list[ProbedVideo]] = {}
        for video in videos:
            shards.setdefault(video.place.shard.shard_id, []).append(video)
        return of_a_row - self._spared(list(shards.values())), alone - of_a_row

    def _spared(self, parts: Sequence[Sequence[ProbedVideo]]) -> float:
        """By the model's own codes, of each row; within a part, where clips that are alike spare more."""
        rows = spared = 0
        for part in parts:
            real = [
                replace(video, clips=[pair for pair in video.rows if not isinstance(pair[1], DrawnClip)])
                for video in part
            ]
            if some := [video for video in real if video.rows]:
                spared += self._of(some) - self._sizes.of(some)
                rows += sum(len(video.rows) for video in some)
        return spared / max(1, rows)


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
