"""read_listed_videos: the videos of a list, each fetched once for all its spans, the next ones ahead."""

import contextvars
import errno
import itertools
import posixpath
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from pipeline.config import JobConfig
from pipeline.errors import ConfigError, SampleError, ShardError, StorageError
from pipeline.logs import about
from pipeline.manifests import read_manifest, stand_in
from pipeline.records import Position, Reject, Shard, Video, VideoRef
from pipeline.secrets import redact_url
from pipeline.shards import find_files, input_root
from pipeline.storage import Store, open_store
from pipeline.video_lists import ListedVideo

__all__ = ["FETCHED_AHEAD_BYTES", "VideoFetcher", "read_listed_videos"]

# Videos fetched at once, and the bytes that may wait for their decoder; one video alone may have more.
_AHEAD, FETCHED_AHEAD_BYTES = 4, 256 * 2**20
# Stores that a person answers for: where one of them fails, the shard is tried again.
_OUR_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file"}
# What a file system says of names that it cannot have.
_NO_NAMES = {errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}


class VideoFetcher:
    """Gets videos by what a list calls them. May be used by several threads."""

    def __init__(self, config: JobConfig) -> None:
        """Reaches all stores as the job's input."""
        self._source = config.input
        self._options = config.storage.input.model_dump()
        self._folder = input_root(config.input)
        self._root = open_store(self._folder, self._options)
        self._max_bytes = config.limits.video_bytes

    def video(self, listed: ListedVideo) -> bytes:
        """A video's bytes, all of them.

        Raises:
            SampleError: `missing` (there is none), `unreachable` (a web server does not give it), `invalid` (nobody
                knows such a URL), `limit`.
            ShardError: its link was signed, and the manifest has none for it any more.
            StorageError: another store failed.
        """
        if listed.problem is not None:
            raise SampleError("read", "invalid", listed.problem)
        url = self._url(listed)
        is_ours = url.partition("://")[0] in _OUR_STORES if "://" in url else True
        try:
            store, path = self._place(url)
            data = self._bytes(store, path, listed.size_bytes, is_web=store.is_web)
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_NAMES:
                raise SampleError("read", "invalid", str(error)) from None
            if isinstance(error.__cause__, NotADirectoryError):
                raise SampleError("read", "missing", str(error)) from None
            if is_ours:
                raise
            raise SampleError("read", "unreachable", str(error)) from None
        except (ConfigError, ValueError) as error:  # nobody knows such a store, or the libraries such a name
            raise SampleError("read", "invalid", f"{redact_url(url)}: {error}") from None
        if data is None:
            raise SampleError("read", "missing", f"{redact_url(f'{store.root}/{path}')}: there is no such object")
        return data

    def _bytes(self, store: Store, path: str, size: int | None, *, is_web: bool) -> bytes | None:
        if size is None:
            info = store.info(path)
            if info is None and not is_web:
                return None
            size = info.size_bytes if info else 0  # a web server need not answer that question
        data = store.read_if_there(path) if size <= self._max_bytes else None
        if max(size, len(data or b"")) > self._max_bytes:
            message = f"{max(size, len(data or b'')):,} bytes, at most {self._max_bytes:,} are allowed"
            raise SampleError("read", "limit", message)
        return data

    def _url(self, listed: ListedVideo) -> str:
        url = listed.url
        if listed.is_link:
            if (link := self._links.get(url)) is None:
                raise ShardError(f"{url}: the manifest has no link for it any more; the dataset keeps no signatures")
            url = link
        if url.startswith("../"):  # beside or above the folder that all manifests lie in
            scheme, slashes, path = self._folder.rpartition("://")
            url = scheme + slashes + posixpath.normpath(posixpath.join(path, url))
        return url

    def _place(self, url: str) -> tuple[Store, str]:
        if "://" not in url and not url.startswith("/"):
            return self._root, url
        query = url.find("?") if "://" in url else -1
        folder, _, name = (url if query < 0 else url[:query]).rpartition("/")
        return open_store(folder or "/", self._options), name + (url[query:] if query >= 0 else "")

    @cached_property
    def _links(self) -> dict[str, str]:
        """Signed links by what stands for them."""
        found = find_files(self._source, self._options)
        rows = (row for path in found.files for row in read_manifest(found.store, path, self._source.columns))
        return {name: row.url for row in rows if (name := stand_in(row.url)) != row.url}

    def text(self, listed: ListedVideo) -> dict[str, str]:
        """Its text by extension, with what lies beside it."""
        text = dict(listed.text)
        for extension, path in listed.beside.items():
            data = self._root.read_if_there(path)
            if data is not None:
                text[extension] = data.decode("utf-8", "backslashreplace").replace("\0", "")
        return text


def read_listed_videos(
    shard: Shard,
    listed: Sequence[ListedVideo],
    fetcher: VideoFetcher,
    *,
    start: Position,
    wanted: Collection[tuple[str, int]] | None = None,
) -> Iterator[Video]:
    """Yields the videos of a shard from `start` on, in order; what cannot be read with its reject.

    Args:
        shard: of which they are.
        listed: all of them.
        fetcher: gets them.
        start: where to begin.
        wanted: by key and occurrence, which ones are asked for, wherever they are; None: all from `start` on.

    Raises:
        ShardError: see VideoFetcher.
        StorageError: the store failed.
    """
    asked = list(enumerate(listed, 1))
    if wanted is None:
        asked = asked[start.sample :]
    else:
        asked = [(number, video) for number, video in asked if (video.key, video.occurrence) in wanted]
    # Together are the spans of one video; a row with a problem has nothing to share.
    groups = [list(group) for _, group in itertools.groupby(asked, lambda pair: (pair[1].problem, pair[1].url))]
    for group, fetched in _ahead(groups, fetcher):
        for place, (number, video) in enumerate(group):
            ref = VideoRef(
                shard_id=shard.shard_id,
                source_shard=shard.path,
                key=video.key,
                occurrence=video.occurrence,
                size_bytes=len(fetched.data),
                text=fetched.texts[place],
            )
            yield Video(
                ref=ref,
                data=fetched.data,
                reject=fetched.reject,
                end=Position(sample=number, offset=None),
                span=(video.start_seconds, video.end_seconds),
                spans_left=len(group) - place - 1 if fetched.reject is None else 0,
            )


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """What came for a group: the data, or why there is none, and the text of each of its videos."""

    data: bytes = b""
    reject: Reject | None = None
    texts: list[dict[str, str]]


_Group = list[tuple[int, ListedVideo]]


def _fetch(fetcher: VideoFetcher, group: _Group) -> _Fetched:
    first = group[0][1]
    with about(video=first.key):
        texts = [fetcher.text(video) for _, video in group]
        try:
            return _Fetched(data=fetcher.video(first), texts=texts)
        except SampleError as error:
            return _Fetched(reject=Reject(stage=error.stage, error=error.error, message=error.message), texts=texts)


def _ahead(groups: Sequence[_Group], fetcher: VideoFetcher) -> Iterator[tuple[_Group, _Fetched]]:
    """Each group with what was fetched for it, in order."""
    waiting: deque[tuple[_Group, Future[_Fetched]]] = deque()
    left = deque(groups)
    with ThreadPoolExecutor(_AHEAD) as threads:
        try:
            while left or waiting:
                done = [future.result() for _, future in waiting if future.done() and not future.exception()]
                has_room = sum(len(fetched.data) for fetched in done) < FETCHED_AHEAD_BYTES
                while left and len(waiting) < _AHEAD and (has_room or not waiting):
                    group = left.popleft()
                    context = contextvars.copy_context()
                    waiting.append((group, threads.submit(context.run, _fetch, fetcher, group)))
                group, future = waiting.popleft()
                yield group, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
