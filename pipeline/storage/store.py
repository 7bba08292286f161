"""A folder of objects: list, read, and write once."""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import fsspec

from pipeline.errors import CommitStateUnknown, NotWhole, StorageError
from pipeline.secrets import redact_url
from pipeline.storage.faults import ShortRead, describe, is_absent, is_outcome_unknown, store_faults
from pipeline.storage.listing import ObjectInfo, info_of, is_file, pages, present
from pipeline.storage.reader import BLOCK_BYTES, ObjectReader
from pipeline.storage.retry import retrying
from pipeline.storage.writes import create, create_local, replace, replace_local

__all__ = ["RETRY_SECONDS", "Store"]

RETRY_SECONDS = 60.0
T = TypeVar("T")


class Store:
    """Objects below one root.

    A request that fails for a passing reason (throttling, a lost connection, a body cut off) is sent again, for a
    bounded time. What fails all the same comes out as StorageError, naming the object.

    Attributes:
        single_writer: whether a person promised that nobody else writes here (`allow_single_writer`).
        block_bytes: of one request of a sequential read; less where little is read in many places.
    """

    def __init__(
        self,
        filesystem: fsspec.AbstractFileSystem,
        root: str,
        *,
        retry_seconds: float = RETRY_SECONDS,
        single_writer: bool = False,
    ) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/") or root  # the root of all files stays "/"
        self._retry_seconds = retry_seconds
        self.single_writer = single_writer
        self.block_bytes = BLOCK_BYTES

    @property
    def root(self) -> str:
        """The root as a URL (a plain path where the store is local), for messages: without secrets."""
        return self._root if self.is_local else redact_url(str(self._filesystem.unstrip_protocol(self._root)))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "file" in self.protocols

    @property
    def is_web(self) -> bool:
        """Whether it is a web server, which may list nothing, give no ranges and say no sizes."""
        return "http" in self.protocols

    @property
    def finds_names(self) -> bool:
        """Whether `present` looks for names without listing all that lies beside them."""
        return hasattr(self._filesystem, "call_s3")

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names of the store's protocol: `("s3", "s3a")`."""
        protocol = self._filesystem.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _full(self, path: str) -> str:
        return posixpath.join(self._root, path.rstrip("/")) if path else self._root

    def _attempt(self, action: str, path: str, call: Callable[[], T]) -> T:
        """Makes one request, again where that may help; what the store's library raises goes on up."""
        # Others write while we list: nothing may come from a cache, and not every library can be told to have none.
        self._filesystem.invalidate_cache()
        return retrying(call, action=action, where=f"{self.root}/{path}", seconds=self._retry_seconds)

    def _error(self, action: str, path: str, error: BaseException) -> StorageError:
        return StorageError(describe(error, action, f"{self.root}/{path}"))

    def _listed(
        self, path: str, make_pages: Callable[[Callable[[Callable[[], Any]], Any]], Iterator[Iterable[Any]]]
    ) -> Iterator[ObjectInfo]:
        try:
            for page in make_pages(lambda call: self._attempt("list", path, call)):
                for raw in page:
                    yield info_of(raw, self._root)
        except store_faults() as error:
            if not is_absent(error):
                raise self._error("list", path, error) from error

    def list(self, folder: str = "", *, recursive: bool = False) -> Iterator[ObjectInfo]:
        """Every object in a folder, in the order of their paths; none where there is no such folder.

        Args:
            folder: its path below the root.
            recursive: also what lies in folders below.
        """
        full = self._full(folder)
        return self._listed(folder, lambda attempt: pages(self._filesystem, full, recursive=recursive, attempt=attempt))

    def present(self, folder: str, names: Sequence[str]) -> Iterator[ObjectInfo]:
        """Those of some names that stand in a folder, in order.

        Not one request a name: on S3 one LIST answers for up to a thousand; elsewhere the folder is listed once.

        Args:
            folder: its path below the root.
            names: names of objects in it, rising.
        """
        full = self._full(folder)
        return self._listed(folder, lambda attempt: iter([present(self._filesystem, full, names, attempt=attempt)]))

    def names(self, folder: str) -> frozenset[str]:
        """The names of all that lies in a folder, without what `list` tells of each."""
        full = self._full(folder)
        try:
            paths = self._attempt("list", folder, lambda: self._filesystem.ls(full, detail=False))
        except store_faults() as error:
            if is_absent(error):
                return frozenset()
            raise self._error("list", folder, error) from error
        return frozenset(posixpath.basename(str(path)) for path in paths)

    def info(self, path: str) -> ObjectInfo | None:
        """What is known of an object, or None where there is none."""
        try:
            raw = self._attempt("look for", path, lambda: self._filesystem.info(self._full(path)))
        except store_faults() as error:
            if is_absent(error):
                return None
            raise self._error("look for", path, error) from error
        return info_of(raw, self._root) if is_file(raw) else None

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """Every object whose path matches `pattern` (`*`, `?`, `[...]`, `**`), in the order of their paths."""
        try:
            found = self._attempt("list", pattern, lambda: self._filesystem.glob(self._full(pattern), detail=True))
        except store_faults() as error:
            if is_absent(error):
                return
            raise self._error("list", pattern, error) from error
        infos = [info_of(raw, self._root) for raw in found.values() if is_file(raw)]
        yield from sorted(infos, key=lambda info: info.path)

    def open(self, path: str) -> ObjectReader:
        """Opens an object to read; seekable, fetched in large ranges as it is read."""
        options: dict[str, Any] = {"cache_type": "none"}
        if self.is_web:
            info = self.info(path)
            if info is None or not info.has_size:
                lack = "there is no such object" if info is None else "the server does not say its size"
                raise StorageError(f"cannot open {redact_url(f'{self.root}/{path}')}: {lack}")
            options["size"] = info.size_bytes  # else fsspec gives a stream where the server says that it has no ranges
        try:
            opened = self._attempt("open", path, lambda: self._filesystem.open(self._full(path), "rb", **options))
        except store_faults() as error:
            raise self._error("open", path, error) from error

        def attempt(call: Callable[[], bytes]) -> bytes:
            try:
                return self._attempt("read", path, call)
            except store_faults() as error:
                raise self._error("read", path, error) from error

        read_whole = (lambda: bytes(self._filesystem.cat_file(self._full(path)))) if self.is_web else None
        return ObjectReader(opened, attempt, read_whole, block_bytes=self.block_bytes)

    def read(self, path: str) -> bytes:
        """The whole of an object."""
        data = self.read_if_there(path)
        if data is None:
            raise StorageError(f"cannot read {redact_url(f'{self.root}/{path}')}: there is no such object")
        return data

    def read_if_there(self, path: str) -> bytes | None:
        """The whole of an object, or None where there is none."""
        # s3fs else asks for the size first, and for large objects in pieces at the same time.
        options = {"max_concurrency": 1} if hasattr(self._filesystem, "call_s3") else {}
        try:
            return bytes(self._attempt("read", path, lambda: self._filesystem.cat_file(self._full(path), **options)))
        except store_faults() as error:
            if is_absent(error):
                return None
            raise self._error("read", path, error) from error

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes of an object from `start` to before `end`.

        Raises:
            NotWhole: there is no such object, or it ends before.
            StorageError: the store failed.
        """

        def once() -> bytes:
            data = bytes(self._filesystem.cat_file(self._full(path), start=start, end=end))
            if len(data) != end - start:
                said = f"{len(data)} bytes came from byte {start} on, expected {end - start}"
                size_bytes = info_of(self._filesystem.info(self._full(path)), self._root).size_bytes
                if size_bytes < end:  # it stays so
                    raise NotWhole(f"cannot read {redact_url(f'{self.root}/{path}')}: of {size_bytes} bytes {said}")
                raise ShortRead(said)
            return data

        try:
            return self._attempt("read", path, once)
        except store_faults() as error:
            kind = NotWhole if is_absent(error) else StorageError
            raise kind(describe(error, "read", f"{self.root}/{path}")) from error

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Writes an object in one conditional request, whole or not at all.

        With `allow_single_writer` the store is asked first and written to then, which is safe for one writer alone.

        Returns:
            True where it was written, False where an object of that name already stands. False may also mean
            that our own write took effect and its answer was lost, so the caller reads back.

        Raises:
            CommitStateUnknown: no try was answered, so that the write may have taken effect.
            StorageError: the store refused.
        """
        if self.single_writer:
            if self.info(path) is not None:
                return False
            self.put(path, data)
            return True
        if self.is_local:
            return self._write(path, lambda: create_local(self._root, path, data))
        return self._write(path, lambda: create(self._filesystem, self._full(path), data))

    def put(self, path: str, data: bytes) -> None:
        """Writes an object, over what may stand there."""
        if self.is_local:
            self._write(path, lambda: replace_local(self._root, path, data))
        else:
            self._write(path, lambda: replace(self._filesystem, self._full(path), data))

    def _write(self, path: str, call: Callable[[], T]) -> T:
        try:
            return self._attempt("write", path, call)
        except store_faults() as error:
            kind = CommitStateUnknown if is_outcome_unknown(error) else StorageError
            raise kind(describe(error, "write", f"{self.root}/{path}")) from error

    def delete(self, path: str) -> None:
        """Removes an object, if it is there."""
        try:
            self._attempt("remove", path, lambda: self._filesystem.rm_file(self._full(path)))
        except store_faults() as error:
            if not is_absent(error):
                raise self._error("remove", path, error) from error
