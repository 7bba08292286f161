"""read_shard: one tar, streamed, as videos with the text that belongs to them.

The naming rule (a sample is the run of members that share a name up to the first dot) is the webdataset
library's. Its reader is not used: it raises on a repeated key and drops, in silence, what it cannot name or what
follows a damaged header, and every input video must be accounted for here.
"""

import gzip
import logging
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, cast

from webdataset.tariterators import base_plus_ext

from pipeline.errors import ShardError
from pipeline.records import Position, Reject, Shard, Video, VideoRef
from pipeline.storage import Store

__all__ = ["VIDEO_EXTENSIONS", "read_shard"]

VIDEO_EXTENSIONS = frozenset(
    "3gp asf avi flv gif m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogg ogv ts webm wmv".split()  # noqa: SIM905
)
_TAR_BLOCK = 512

log = logging.getLogger(__name__)


@dataclass
class _Sample:
    key: str
    members: dict[str, bytes] = field(default_factory=dict)  # by extension


@dataclass(frozen=True)
class _Member:
    key: str
    extension: str
    data: bytes
    offset: int  # of its header


@dataclass(frozen=True)
class _TarEnd:
    offset: int
    damage: "_Damage | None"


class _Damage(Exception):
    """The tar cannot be read further; what came before stands."""

    def __init__(self, error: str, message: str, key: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.key = key


def read_shard(
    store: Store, shard: Shard, *, start: Position, seen: Mapping[str, int] | None = None
) -> Iterator[Video]:
    """Yields every video of a shard from `start` on, in order.

    What is wrong with the tar itself comes as a last Video with a reject: its key is that of the sample in which
    the tar broke, or empty where it broke between samples.

    Args:
        store: the input's root.
        shard: which tar.
        start: where to begin; the shard's beginning, or the end of a part.
        seen: videos before `start` by key, so that a repeated key goes on being counted.

    Raises:
        ShardError: the tar is not the one that was listed.
        StorageError: the store failed, which says nothing about the tar.
    """
    counts = Counter(seen or {})

    def video(key: str, data: bytes, text: dict[str, str], reject: Reject | None, end: Position | None) -> Video:
        if key and counts[key] == 1:
            log.warning("%s: key %r stands there more than once; all its videos are kept", shard.path, key)
        ref = VideoRef(
            shard_id=shard.shard_id,
            source_shard=shard.path,
            key=key,
            occurrence=counts[key],
            size_bytes=len(data),
            text=text,
        )
        counts[key] += 1
        return Video(ref=ref, data=data, reject=reject, end=end)

    if start.sample and start.offset is not None and start.offset >= shard.size_bytes:
        return  # the part before went to where the tar breaks off
    index = start.sample if start.offset is not None else 0
    try:
        for sample, end_offset in _samples(store, shard, start.offset):
            index += 1
            if index <= start.sample:
                continue  # a compressed tar is read from its beginning
            end = Position(sample=index, offset=end_offset)
            videos, text = _sort_out(sample)
            if not videos:
                members = ", ".join(f"{sample.key}.{name}" if name else sample.key for name in sample.members)
                reject = Reject(stage="read", error="no_video", message=f"expected a video among {members}")
                yield video(sample.key, b"", text, reject, end)
            for number, extension in enumerate(videos, 1):
                key = sample.key if len(videos) == 1 else f"{sample.key}.{extension}"
                yield video(key, sample.members[extension], text, None, end if number == len(videos) else None)
    except _Damage as damage:
        end = Position(sample=index + 1, offset=None if _is_compressed(shard) else shard.size_bytes)
        if end.sample > start.sample:
            reject = Reject(stage="read", error=damage.error, message=str(damage))
            yield video(damage.key, b"", {}, reject, end)


def _sort_out(sample: _Sample) -> tuple[list[str], dict[str, str]]:
    """The extensions of a sample's videos, and its text by extension."""
    videos = [name for name in sample.members if name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS]
    text = {
        name: content
        for name, data in sample.members.items()
        if name not in videos and (content := _as_text(data)) is not None
    }
    if not videos:
        # No name says which member is the video: the first that is no text is tried.
        videos = [name for name in sample.members if name not in text][:1]
    return videos, text


def _as_text(data: bytes) -> str | None:
    if b"\0" in data[:_TAR_BLOCK]:
        return None
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in content else content


def _is_compressed(shard: Shard) -> bool:
    return not shard.path.endswith(".tar")


def _samples(store: Store, shard: Shard, offset: int | None) -> Iterator[tuple[_Sample, int | None]]:
    """Groups members into samples; with each, the offset of what follows it (None in a compressed tar)."""
    with store.open(shard.path) as raw:
        if raw.size_bytes != shard.size_bytes:
            raise ShardError(
                f"{shard.path}: {raw.size_bytes} bytes, but {shard.size_bytes} when the input was listed; a shard "
                "must not change under a dataset"
            )
        opened = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if _is_compressed(shard) else raw)
        current: _Sample | None = None
        for item in _members(opened, offset or 0):
            next_offset = None if _is_compressed(shard) else item.offset
            if isinstance(item, _TarEnd):
                # A sample that broke off in one of its members is the damaged one, not a whole one before it.
                if current is not None and (item.damage is None or item.damage.key != current.key):
                    yield current, next_offset
                if item.damage is not None:
                    raise item.damage
                return
            if current is not None and (item.key != current.key or item.extension in current.members):
                yield current, next_offset
                current = None
            if current is None:
                current = _Sample(item.key)
            current.members[item.extension] = item.data


def _members(opened: IO[bytes], offset: int) -> Iterator[_Member | _TarEnd]:
    """Yields the files of a tar from a member's header on, then how the tar ends."""
    key, end, found_any = "", offset, offset > 0
    damage: _Damage | None = None
    try:
        opened.seek(offset)
        with tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                # Until its content is whole, whatever breaks is this member's sample.
                (key, extension), end = _split_name(member.name), member.offset
                if _is_data(member):
                    content = cast(IO[bytes], tar.extractfile(member)).read()
                    yield _Member(key, extension, content, member.offset)
                key, end, found_any = "", tar.offset, True
        opened.seek(end)
        # tarfile takes a damaged header for the end of the archive; a real end is a block of zeros.
        block = opened.read(_TAR_BLOCK)
        if not found_any:
            damage = _Damage("empty", "the tar holds no files")
        elif not block or block.strip(b"\0"):
            what = "no tar header stands" if block else "it ends without an end-of-archive block"
            damage = _Damage("truncated", f"{what} at byte {end}; videos that may have followed are lost")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        kind = "truncated" if found_any or key else "empty" if "empty" in str(error) else "unreadable"
        damage = _Damage(kind, f"the tar cannot be read from byte {end} on: {error}", key)
    yield _TarEnd(end, damage)


def _split_name(name: str) -> tuple[str, str]:
    """A member's sample key and extension; a name without an extension is its own key."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # old tars hold any bytes
    key, extension = base_plus_ext(name)
    return (name, "") if key is None else (key, extension)


def _is_data(member: tarfile.TarInfo) -> bool:
    """Whether a member belongs to a sample: a file, neither hidden nor webdataset's own (`__name__`)."""
    name = posixpath.basename(member.name)
    return member.isfile() and not name.startswith((".", "__"))
