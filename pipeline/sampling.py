"""Some videos of a job's input, drawn by a seed: of small inputs from all that there are, of any other by their place.

A place of a tar is a sample (mostly one video), one of a list is a video. Of tars that are large together nobody knows
how many samples they hold. There a byte is drawn, and what counts is the sample that begins next behind it, or the
first where none does; so the samples of millions of tars are drawn with some requests for each.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, cast

import numpy as np

from pipeline.listed_videos import VideoFetcher, read_listed_videos
from pipeline.plan import Plan
from pipeline.records import Position, Shard, Video
from pipeline.samples import index_shard, read_shard
from pipeline.shards import input_root
from pipeline.storage import Store, open_store
from pipeline.tars import find_member
from pipeline.video_lists import listed_in

__all__ = ["Place", "VideoSample", "draw_videos"]

# Tars of which all headers are read.
_SMALL_BYTES, _SMALL_SHARDS = 256 * 2**20, 128
# Of a request, where headers are looked for.
_BLOCK_BYTES = 2**20
_LOOKED_FOR_AT_ONCE = 8
_HEADER_BYTES = 512


@dataclass(kw_only=True, eq=False)
class Place:
    """What is read together.

    Attributes:
        shard: where it lies.
        start: where in it: the sample's position, or the video's number in the shard's list.
        times: how often it was drawn.
        size: what it is of the whole: its bytes in a tar, known when it was read; or 1, of the videos of a list.
    """

    shard: Shard
    start: Position
    times: int = 1
    size: float = 0.0


@dataclass(kw_only=True)
class VideoSample:
    """Videos that were drawn.

    Attributes:
        places: where they lie, in an order drawn by the seed.
        total: of the input what the sizes of places are shares of: bytes of the tars, or videos of the lists.
        number: how many places there are, or None where nobody counted.
    """

    plan: Plan
    places: list[Place]
    total: int
    number: int | None

    @property
    def is_whole(self) -> bool:
        """Whether all places were drawn."""
        return self.number == len(self.places)

    def videos(self) -> Iterator[tuple[Place, Video]]:
        """Reads the videos, each with its place; what cannot be read comes with its reject.

        Raises:
            ShardError: a shard is not what was listed.
            StorageError: the store failed.
        """
        config = self.plan.config
        store, max_bytes = _input(self.plan), config.limits.video_bytes
        fetcher = VideoFetcher(config)
        for shard, places in _by_shard(self.places):
            if shard.videos is not None:
                yield from _listed(self.plan, shard, places, fetcher)
            elif shard.beginning.offset is None:
                yield from _compressed(store, shard, places, max_bytes)
            else:
                for place in places:
                    yield from _sample(store, place, max_bytes)


def draw_videos(plan: Plan, shards: Sequence[Shard], count: int, seed: int) -> VideoSample:
    """Draws some videos of these shards, whose input is that of the plan; the same ones for the same seed.

    Raises:
        ShardError, StorageError: as of `VideoSample.videos`.
    """
    dice = np.random.default_rng(seed)
    if not shards:
        return VideoSample(plan=plan, places=[], total=0, number=0)
    if plan.config.input.kind != "shards":
        places, total = _draw_listed(shards, count, dice)
        return VideoSample(plan=plan, places=places, total=total, number=total)
    sizes = np.array([shard.size_bytes for shard in shards], np.int64)
    total, store = int(sizes.sum()), _input(plan)
    if total > _SMALL_BYTES or len(shards) > _SMALL_SHARDS:
        places = _draw_bytes(store, shards, sizes, count, dice)
        return VideoSample(plan=plan, places=places, total=total, number=None)
    found = [
        Place(shard=shard, start=start)
        for shard in shards
        for _, start, number in index_shard(store, shard)
        if number == 0
    ]
    chosen = dice.permutation(len(found))[:count]
    return VideoSample(plan=plan, places=[found[n] for n in chosen], total=total, number=len(found))


def _input(plan: Plan) -> Store:
    store = open_store(input_root(plan.config.input), plan.config.storage.input.model_dump())
    store.block_bytes = _BLOCK_BYTES
    return store


def _draw_listed(shards: Sequence[Shard], count: int, dice: np.random.Generator) -> tuple[list[Place], int]:
    counts = np.array([shard.videos.count for shard in shards if shard.videos is not None])
    ends = counts.cumsum()
    total = int(ends[-1])
    numbers = dice.choice(total, min(count, total), replace=False)
    places = []
    for number in numbers.tolist():
        shard = int(np.searchsorted(ends, number, side="right"))
        place = Position(sample=number - int(ends[shard] - counts[shard]), offset=None)
        places.append(Place(shard=shards[shard], start=place, size=1.0))
    return places, total


def _draw_bytes(
    store: Store, shards: Sequence[Shard], sizes: "np.ndarray[tuple[int], np.dtype[np.int64]]", count: int,
    dice: np.random.Generator,
) -> list[Place]:  # fmt: skip
    """One byte of each of `count` equal stretches of all the tars' bytes, and the samples behind these."""
    ends = sizes.cumsum()
    drawn = ((np.arange(count) + dice.random(count)) * int(ends[-1]) / count).astype(np.int64)
    numbers = np.searchsorted(ends, drawn, side="right")
    ahead: Counter[int] = Counter()  # in compressed tars, which are read from their beginning

    def asked() -> Iterator[tuple[Shard, int]]:
        for byte, number in zip(drawn.tolist(), numbers.tolist(), strict=True):
            shard = shards[number]
            if shard.beginning.offset is None:
                yield shard, ahead[number]
                ahead[number] += 1
            else:
                yield shard, byte - int(ends[number] - sizes[number])

    with ThreadPoolExecutor(_LOOKED_FOR_AT_ONCE) as threads:
        starts = list(threads.map(lambda pair: (pair[0], _start(store, *pair)), list(asked())))
    places: dict[tuple[str, Position], Place] = {}
    for index in dice.permutation(len(starts)):
        shard, start = starts[index]
        place = places.setdefault((shard.shard_id, start), Place(shard=shard, start=start, times=0))
        place.times += 1
    return list(places.values())


def _start(store: Store, shard: Shard, byte: int) -> Position:
    """Where the first sample begins behind a byte of a tar, or the tar itself; of a compressed one, sample `byte`."""
    if shard.beginning.offset is None:
        return Position(sample=byte, offset=None)
    with store.open(shard.path) as opened:
        header = find_member(cast("IO[bytes]", opened), byte)
    if header is not None and header > 0:
        # The sample that stands there may have begun before.
        ends = (
            video.end for video in read_shard(store, shard, start=Position(sample=0, offset=header), max_bytes=0)
        )  # fmt: skip
        end = next(filter(None, ends), None)
        if end is not None and end.offset is not None and end.offset < shard.size_bytes:
            first = next(read_shard(store, shard, start=end, max_bytes=0), None)
            if first is not None:
                return end
    return shard.beginning


def _by_shard(places: Iterable[Place]) -> Iterator[tuple[Shard, list[Place]]]:
    """Places that are read in one go: of a list, of a compressed tar; of any other, each by itself."""
    groups: dict[object, list[Place]] = defaultdict(list)
    for place in places:
        alone = place.shard.beginning.offset is not None
        groups[(place.shard.shard_id, place.start) if alone else place.shard.shard_id].append(place)
    for group in groups.values():
        yield group[0].shard, group


def _sample(store: Store, place: Place, max_bytes: int) -> Iterator[tuple[Place, Video]]:
    start = place.start.offset or 0
    for video in read_shard(store, place.shard, start=place.start, max_bytes=max_bytes):
        yield place, video
        if video.end is not None:
            place.size = min(video.end.offset or 0, place.shard.size_bytes) - start
            return


def _compressed(store: Store, shard: Shard, places: Iterable[Place], max_bytes: int) -> Iterator[tuple[Place, Video]]:
    wanted = {place.start.sample: place for place in places}
    number = 0
    for video in read_shard(store, shard, start=shard.beginning, max_bytes=max_bytes):
        if (place := wanted.get(number)) is not None:
            # As in a tar; that videos do not get smaller by compression is near enough.
            members = [video.ref.size_bytes, *map(len, video.ref.text.values())]
            place.size += sum(members) + _HEADER_BYTES * len(members)
            yield place, video
        if video.end is not None:
            wanted.pop(number, None)
            number = video.end.sample
            if not wanted:
                return


def _listed(
    plan: Plan, shard: Shard, places: Iterable[Place], fetcher: VideoFetcher
) -> Iterator[tuple[Place, Video]]:  # fmt: skip
    assert shard.videos is not None, "a shard of listed videos"
    path = shard.videos.path
    listed = listed_in(plan.lists.get(path) or plan.store.read_if_there(path), shard)
    by_video = {(listed[place.start.sample].key, listed[place.start.sample].occurrence): place for place in places}
    videos = read_listed_videos(shard, listed, fetcher, start=shard.beginning, wanted=by_video.keys())
    yield from ((by_video[video.ref.key, video.ref.occurrence], video) for video in videos)
