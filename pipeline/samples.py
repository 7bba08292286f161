"""read_shard: one tar, streamed, as videos with the text that belongs to them.

The naming rule (a sample is the run of members that share a name up to the first dot) is the webdataset
library's. Its reader is not used: it raises on a repeated key and drops, in silence, what it cannot name or what
follows a damaged header, and every input video must be accounted for here.
"""

import dataclasses
import gzip
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, cast

from pipeline.errors import ShardError
from pipeline.extensions import OTHER_EXTENSIONS, PICTURE_EXTENSIONS, TEXT_EXTENSIONS, VIDEO_EXTENSIONS
from pipeline.records import Position, Reject, Shard, Video, VideoRef
from pipeline.storage import Store
from pipeline.tars import Damage, Member, TarEnd, read_members

__all__ = ["index_shard", "not_yet_done", "read_shard", "read_some"]

# Of a member, where nobody says otherwise (LimitsConfig.video_bytes).
_MAX_BYTES = 4 * 2**30

log = logging.getLogger(__name__)


@dataclass
class _Sample:
    key: str
    members: dict[str, Member] = field(default_factory=dict)  # by extension
    damage: Damage | None = None  # the tar broke off in it


def read_shard(
    store: Store,
    shard: Shard,
    *,
    start: Position,
    seen: Mapping[str, int] | None = None,
    max_bytes: int = _MAX_BYTES,
) -> Iterator[Video]:
    """Yields every video of a shard from `start` on, in order.

    What is wrong with the tar itself comes as a last Video with a reject: its key is that of the sample in which
    the tar broke, or empty where it broke between samples.

    Args:
        store: the input's root.
        shard: which tar.
        start: where to begin; the shard's beginning, or the end of a part.
        seen: videos before `start` by key, so that a repeated key goes on being counted.
        max_bytes: of a member; a larger one is not read.

    Raises:
        ShardError: the tar is not the one that was listed.
        StorageError: the store failed, which says nothing about the tar.
    """
    if start.offset is not None and start.offset > shard.size_bytes:
        return  # the part before went to where the tar breaks off
    counts = Counter(seen or {})
    index = start.sample if start.offset is not None else 0
    for sample, end_offset in _samples(store, shard, start.offset, max_bytes):
        index += 1
        if index > start.sample:  # a compressed tar is read from its beginning
            yield from _videos(sample, shard, Position(sample=index, offset=end_offset), counts, max_bytes)


def index_shard(store: Store, shard: Shard) -> Iterator[tuple[Video, Position, int]]:
    """Yields each video of a shard with where its sample begins, and how many of its videos come before it.

    Headers alone are read, so a video has no bytes, and a reject of the class `limit`; any other says what is wrong.
    """
    start, number = shard.beginning, 0
    for video in read_shard(store, shard, start=start, max_bytes=0):  # nothing is small enough to be read
        yield video, start, number
        number += 1
        if video.end is not None:
            start, number = video.end, 0


def not_yet_done(only: Collection[tuple[str, int]], done: Mapping[str, int]) -> set[tuple[str, int]]:
    """Of some videos, by key and occurrence, those that are left where of each key the first `done` are in the log."""
    left = set(only)
    for key, number in done.items():
        left -= set(sorted(video for video in only if video[0] == key)[:number])
    return left


def read_some(
    store: Store, shard: Shard, wanted: Collection[tuple[str, int]], *, max_bytes: int = _MAX_BYTES
) -> Iterator[Video]:
    """Yields some videos of a shard, in order.

    Args:
        store: the input's root.
        shard: which tar.
        wanted: the videos, by key and occurrence.
        max_bytes: of a member; a larger one is not read.
    """
    held: Video | None = None
    for video in read_shard(store, shard, start=shard.beginning, max_bytes=max_bytes):
        if (video.ref.key, video.ref.occurrence) in wanted:
            if held is not None:
                yield held
            held = video
        elif held is not None and held.end is None:
            held = dataclasses.replace(held, end=video.end)  # its sample goes on, without a video that is wanted
    if held is not None:
        yield held


def _videos(sample: _Sample, shard: Shard, end: Position, counts: Counter[str], max_bytes: int) -> Iterator[Video]:
    videos = _choose_videos(sample)
    reject = None
    if sample.damage is not None:
        reject = Reject(stage="read", error=sample.damage.error, message=sample.damage.message)
    elif not videos:
        members = ", ".join(f"{sample.key}.{name}" if name else sample.key for name in sample.members)
        reject = Reject(stage="read", error="no_video", message=f"expected a video among {members}")
    for number, member in enumerate(videos or [None], 1):
        key = sample.key if member is None or len(videos) == 1 else f"{sample.key}.{member.extension}"
        if key and counts[key] == 1:
            said = "%s: key %r stands there more than once; all its videos are kept"
            log.warning(said, shard.path, key, extra={"video": key})
        data = member.data if member is not None and reject is None else b""
        unfit = None if member is None else _unfit(member, max_bytes)
        ref = VideoRef(
            shard_id=shard.shard_id,
            source_shard=shard.path,
            key=key,
            occurrence=counts[key],
            size_bytes=member.size_bytes if member is not None and reject is None else 0,
            text=_text_of(member, sample, videos, shard.path),
        )
        counts[key] += 1
        last = number >= len(videos)
        yield Video(ref=ref, data=data, reject=reject or unfit, end=end if last else None)


def _unfit(member: Member, max_bytes: int) -> Reject | None:
    if member.link:
        message = f"a link to {member.link!r} in the tar, which holds no video; links are not followed"
        return Reject(stage="read", error="unreadable", message=message)
    if member.is_too_large:
        message = f"{member.size_bytes:,} bytes, at most {max_bytes:,} are allowed"
        return Reject(stage="read", error="limit", message=message)
    return None


def _is_video(member: Member) -> bool:
    return _kind(member.extension) in VIDEO_EXTENSIONS


def _choose_videos(sample: _Sample) -> list[Member]:
    videos = [member for member in sample.members.values() if _is_video(member)]
    if not videos:
        # No name says which member is the video: the first that may be one is tried.
        may_be = (member for member in sample.members.values() if _kind(member.extension) not in OTHER_EXTENSIONS)
        videos = [member for member in may_be if member.is_too_large or _as_text(member.data) is None][:1]
    if not videos:
        videos = [member for member in sample.members.values() if _kind(member.extension) in PICTURE_EXTENSIONS]
    return videos


def _text_of(video: Member | None, sample: _Sample, videos: list[Member], source: str) -> dict[str, str]:
    """A video's text by extension; what shares its longer name (`a.left.mp4`, `a.left.txt`) is its own alone."""
    others = {_prefix(other.extension) for other in videos} - {""}
    mine = _prefix(video.extension) if video is not None else ""
    text = {}
    for extension, member in sample.members.items():
        prefix = _prefix(extension)
        if member in videos or member.link or member.is_too_large or (prefix in others and prefix != mine):
            continue
        content = _as_text(member.data)
        if content is None and _kind(extension) in TEXT_EXTENSIONS:
            said = "%s: %s.%s is not UTF-8; what does not decode is escaped"
            log.warning(said, source, sample.key, extension, extra={"video": sample.key})
            content = member.data.decode("utf-8", "backslashreplace").replace("\0", "")
        if content is None:
            continue
        text[extension.removeprefix(f"{mine}.") if mine and prefix == mine else extension] = content
    return text


def _prefix(extension: str) -> str:
    return extension.rpartition(".")[0]


def _kind(extension: str) -> str:
    return extension.rpartition(".")[2].lower()


def _as_text(data: bytes) -> str | None:
    if b"\0" in data[:512]:
        return None
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in content else content


def _is_compressed(shard: Shard) -> bool:
    return not shard.path.endswith(".tar")


def _samples(store: Store, shard: Shard, offset: int | None, max_bytes: int) -> Iterator[tuple[_Sample, int | None]]:
    """Groups members into samples; with each, the offset of what follows it (None in a compressed tar)."""
    with store.open(shard.path) as raw:
        if raw.size_bytes != shard.size_bytes:
            raise ShardError(
                f"{shard.path}: {raw.size_bytes} bytes, but {shard.size_bytes} when the input was listed; a shard "
                "must not change under a dataset"
            )
        if _tell_content(raw.etag) and _tell_content(shard.etag) and raw.etag != shard.etag:
            raise ShardError(
                f"{shard.path}: its etag is {raw.etag}, but {shard.etag} when the input was listed; a shard must not "
                "change under a dataset"
            )
        opened = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if _is_compressed(shard) else raw)
        current: _Sample | None = None
        for item in read_members(opened, offset or 0, max_bytes):
            next_offset = None if _is_compressed(shard) else item.offset
            if isinstance(item, TarEnd):
                if current is not None and not _breaks_in(current, item.damage):
                    yield current, next_offset
                    current = None
                if item.damage is not None:
                    damaged = current or _Sample(item.damage.key)
                    damaged.damage = item.damage
                    # Beyond the end, which no whole sample reaches: so a run that resumes knows that this is recorded.
                    yield damaged, None if _is_compressed(shard) else shard.size_bytes + 1
                return
            if current is not None and (item.key != current.key or item.extension in current.members):
                yield current, next_offset
                current = None
            if current is None:
                current = _Sample(item.key)
            current.members[item.extension] = item


def _tell_content(etag: str | None) -> bool:
    """Whether an etag is the MD5 of the content; any other may change when the bucket is moved."""
    return etag is not None and re.fullmatch("[0-9a-f]{32}", etag) is not None


def _breaks_in(sample: _Sample, damage: Damage | None) -> bool:
    """Whether a sample is not whole: the tar broke off in its text, or in its only video."""
    if damage is None or damage.key != sample.key or damage.extension in sample.members:
        return False
    has_video = any(_is_video(member) for member in sample.members.values())
    return not (has_video and _kind(damage.extension) in VIDEO_EXTENSIONS)
