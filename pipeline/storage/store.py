"""A folder of objects: list, read, and write once."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from pipeline.errors import ConfigError, StorageError
from pipeline.storage.conditional import create, create_local
from pipeline.storage.faults import STORE_FAULTS, describe, is_missing_bucket, redact_url
from pipeline.storage.reader import ObjectReader

__all__ = ["ObjectInfo", "Store", "absolute_url", "open_store", "redact_url"]

# One request of a sequential read. Large, because each is a round trip on an object store.
_READ_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One stored object.

    Attributes:
        path: its path relative to the store's root.
        size_bytes: its size.
        etag: what the store says identifies its content, or None (local files have none).
    """

    path: str
    size_bytes: int
    etag: str | None


def absolute_url(url: str) -> str:
    """`url` unchanged where it names a protocol; a local path made absolute, since workers have other folders."""
    if "://" in url or "::" in url:
        return url
    trailing = "/" if url.endswith("/") else ""
    return os.path.abspath(os.path.expanduser(url)).rstrip("/") + trailing


def open_store(root: str, options: Mapping[str, Any] | None = None) -> "Store":
    """Opens the folder `root` (a local path or any URL that fsspec knows).

    Args:
        root: the folder. It need not exist.
        options: `endpoint_url`, `anon`, `region` and `profile`, where the store has such things.

    Raises:
        ConfigError: the protocol is unknown, its package is not installed, or the endpoint is no URL.
    """
    url = absolute_url(root)
    try:
        filesystem, path = url_to_fs(url, **_filesystem_options(url, options or {}))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{redact_url(url)}: this store cannot be opened: {error}") from None
    return Store(filesystem, path)


def _filesystem_options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    if not url.startswith(("s3://", "s3a://")):
        return {}
    result: dict[str, Any] = {name: given[name] for name in ("endpoint_url", "anon", "profile") if name in given}
    if "region" in given:
        result["client_kwargs"] = {"region_name": given["region"]}
    endpoint = given.get("endpoint_url")
    if endpoint is not None and not re.match(r"https?://[^/\s]+", endpoint):  # botocore's ValueError comes late
        raise ConfigError(f"endpoint_url: {redact_url(endpoint)}: expected http://host:port or https://host")
    # Listings change while a job runs, so none may come from a cache.
    return {**result, "use_listings_cache": False, "default_fill_cache": False}


def _is_absent(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) and not is_missing_bucket(error)


def _is_file(raw: Mapping[str, Any]) -> bool:
    # fsspec calls a local link neither a file nor a folder, but gives its target's size.
    return raw["type"] == "file" or (bool(raw.get("islink")) and os.path.isfile(raw["name"]))


class Store:
    """Objects below one root. Every failure of the store comes out as StorageError, naming the object."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/") or root  # the root of all files stays "/"

    @property
    def root(self) -> str:
        """The root as a URL (a plain path where the store is local), for messages: without secrets."""
        return self._root if self._is_local else redact_url(str(self._filesystem.unstrip_protocol(self._root)))

    @property
    def _is_local(self) -> bool:
        return "file" in self._protocols

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self._filesystem.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _full(self, path: str) -> str:
        return posixpath.join(self._root, path.rstrip("/")) if path else self._root

    def _relative(self, full: str) -> str:
        return full.removeprefix(self._root).lstrip("/")

    def _info(self, raw: Mapping[str, Any]) -> ObjectInfo:
        etag = raw.get("ETag") or raw.get("etag")
        return ObjectInfo(
            path=self._relative(raw["name"]),
            size_bytes=int(raw["size"] or 0),
            etag=None if etag is None else str(etag).strip('"'),
        )

    def list(self, folder: str = "", *, recursive: bool = False) -> Iterator[ObjectInfo]:
        """Every object in a folder, in the order of their paths; none where there is no such folder.

        Args:
            folder: its path below the root.
            recursive: also what lies in folders below.
        """
        try:
            if recursive:
                found = list(self._filesystem.find(self._full(folder), detail=True).values())
            else:
                found = self._filesystem.ls(self._full(folder), detail=True)
        except STORE_FAULTS as error:
            if _is_absent(error):
                return
            raise StorageError(describe(error, "list", f"{self.root}/{folder}")) from error
        infos = (self._info(raw) for raw in found if _is_file(raw))
        yield from sorted(infos, key=lambda info: info.path)

    def info(self, path: str) -> ObjectInfo | None:
        """What is known of an object, or None where there is none."""
        try:
            raw = self._filesystem.info(self._full(path))
        except STORE_FAULTS as error:
            if _is_absent(error):
                return None
            raise StorageError(describe(error, "look for", f"{self.root}/{path}")) from error
        return self._info(raw) if _is_file(raw) else None

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """Every object whose path matches `pattern` (`*`, `?`, `[...]`, `**`), in the order of their paths."""
        try:
            found = self._filesystem.glob(self._full(pattern), detail=True)
        except STORE_FAULTS as error:
            if _is_absent(error):
                return
            raise StorageError(describe(error, "list", f"{self.root}/{pattern}")) from error
        infos = [self._info(raw) for raw in found.values() if _is_file(raw)]
        yield from sorted(infos, key=lambda info: info.path)

    def open(self, path: str) -> ObjectReader:
        """Opens an object to read; seekable, fetched in large ranges as it is read."""
        try:
            opened = self._filesystem.open(self._full(path), "rb", block_size=_READ_BLOCK_BYTES, cache_type="readahead")
        except STORE_FAULTS as error:
            raise StorageError(describe(error, "open", f"{self.root}/{path}")) from error
        return ObjectReader(opened, f"{self.root}/{path}")

    def read(self, path: str) -> bytes:
        """The whole of an object."""
        data = self.read_if_there(path)
        if data is None:
            raise StorageError(f"cannot read {redact_url(f'{self.root}/{path}')}: there is no such object")
        return data

    def read_if_there(self, path: str) -> bytes | None:
        """The whole of an object, or None where there is none."""
        try:
            return bytes(self._filesystem.cat_file(self._full(path)))
        except STORE_FAULTS as error:
            if _is_absent(error):
                return None
            raise StorageError(describe(error, "read", f"{self.root}/{path}")) from error

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Writes an object in one conditional request, whole or not at all.

        Returns:
            True where it was written, False where an object of that name already stands. False may also mean
            that our own write took effect and its answer was lost, so the caller reads back.
        """
        try:
            if self._is_local:
                return create_local(self._root, path, data)
            return create(self._filesystem, self._full(path), data)
        except STORE_FAULTS as error:
            raise StorageError(describe(error, "write", f"{self.root}/{path}")) from error
