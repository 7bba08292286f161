"""Which shards there are: patterns in a job file become a list that the first run freezes."""

import hashlib
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from braceexpand import braceexpand

from pipeline.errors import ConfigError
from pipeline.records import Shard
from pipeline.secrets import redact_url
from pipeline.storage import ObjectInfo, Store, absolute_url, open_store

__all__ = ["TAR_SUFFIXES", "input_root", "list_shards", "relative_patterns"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_ASKED_AT_ONCE = 16


def input_root(patterns: str | Iterable[str]) -> str:
    """The deepest folder that every pattern lies in. It follows from the patterns alone, not from what they match.

    A pattern that is no tar's path names a folder, with or without a slash at its end.
    """
    literals = []
    for pattern in _as_list(patterns):
        url = absolute_url(pattern)
        fixed, *magic = re.split(r"[*?\[{]", url, maxsplit=1)
        folder = fixed.rpartition("/")[0] if magic or url.endswith(TAR_SUFFIXES) else url.rstrip("/")
        literals.append(folder.split("/"))
    shared = literals[0]
    for other in literals[1:]:
        same = [left == right for left, right in zip(shared, other, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    root = "/".join(shared)
    if not shared or root.endswith((":", ":/")):
        raise ConfigError(f"input.shards: {', '.join(map(redact_url, _as_list(patterns)))} have no folder in common")
    return root or "/"


def relative_patterns(patterns: str | Iterable[str]) -> list[str]:
    """The patterns below their root: the same ones wherever the input lies."""
    root = input_root(patterns)
    return [absolute_url(pattern).removeprefix(root) for pattern in _as_list(patterns)]


def list_shards(patterns: str | Iterable[str], options: Mapping[str, Any] | None = None) -> list[Shard]:
    """Lists the tars that the patterns name, in the order of their paths, each once.

    Args:
        patterns: paths, brace patterns, globs, folders or prefixes (see InputConfig.shards).
        options: how to reach the store, as for `open_store`.

    Raises:
        ConfigError: nothing matches, tars named one by one are missing (all of them in the message), or a web
            server does not say their sizes.
        StorageError: the store cannot be listed.
    """
    _refuse_queries(patterns)
    root = input_root(patterns)
    store = open_store(root, options)
    found: dict[str, ObjectInfo] = {}
    named: set[str] = set()
    for pattern in _as_list(patterns):
        for url in _expand(pattern):
            path = absolute_url(url).removeprefix(root).lstrip("/")
            if re.search(r"[*?\[]", path):
                found |= _tars(store.glob(path))
            elif path.endswith(TAR_SUFFIXES):
                named.add(path)
            else:
                found |= _tars(store.list(path, recursive=True))
    if store.is_web:
        named |= found.keys()  # an index page has no sizes
    there = _look_for(store, named)
    found |= there
    lacks = {path: "there is no such tar" for path in named - there.keys()}
    lacks |= {path: "the server does not say its size" for path, info in found.items() if not info.has_size}
    if lacks:
        raise ConfigError([f"input.shards: {redact_url(store.root)}/{path}: {lacks[path]}" for path in sorted(lacks)])
    if not found:
        next(store.list(), None)  # raises where the whole bucket is missing, which a glob takes for empty
        tried = ", ".join(redact_url(pattern) for pattern in _as_list(patterns))
        raise ConfigError(f"input.shards: nothing matches {tried} (expected {', '.join(TAR_SUFFIXES)} files)")
    for path in found:
        if not path.isprintable():  # a name that is not UTF-8 comes with half surrogate pairs, which no column holds
            raise ConfigError(f"input.shards: {path!a}: the name of a tar must be printable UTF-8")
    return [
        Shard(shard_id=_shard_id(path), path=path, size_bytes=info.size_bytes, etag=info.etag)
        for path, info in sorted(found.items())
    ]


def _refuse_queries(patterns: str | Iterable[str]) -> None:
    links = [pattern for pattern in _as_list(patterns) if re.search(r"https?://[^?]*\?", pattern)]
    if links:
        raise ConfigError(
            [
                f"input.shards: {redact_url(link)}: behind it a ? begins a query, which may be a signature, and no "
                "dataset keeps those; expected a plain link, or the bucket itself (s3://...)"
                for link in links
            ]
        )


def _look_for(store: Store, paths: Collection[str]) -> dict[str, ObjectInfo]:
    """Those of some paths that are there: by one listing of each folder; of a web server, by one request a path."""
    if store.is_web:
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            return {info.path: info for info in pool.map(store.info, sorted(paths)) if info is not None}
    folders = {posixpath.dirname(path) for path in paths}
    return {info.path: info for folder in folders for info in store.list(folder) if info.path in paths}


def _as_list(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _expand(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError:  # its UnbalancedBracesError is one
        raise ConfigError(f"input.shards: {redact_url(pattern)}: a brace is not closed") from None


def _tars(infos: Iterable[ObjectInfo]) -> dict[str, ObjectInfo]:
    return {info.path: info for info in infos if info.path.endswith(TAR_SUFFIXES)}


def _shard_id(path: str) -> str:
    name = posixpath.basename(path)
    stem = next((name.removesuffix(suffix) for suffix in TAR_SUFFIXES if name.endswith(suffix)), name)
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:80]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:10]}".lstrip("-")
