"""Which files there are: patterns in a job file become a list that the first run freezes."""

import fnmatch
import hashlib
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from braceexpand import braceexpand

from pipeline.errors import ConfigError
from pipeline.extensions import PICTURE_EXTENSIONS, VIDEO_EXTENSIONS
from pipeline.input_config import InputConfig, InputKind
from pipeline.records import Shard
from pipeline.secrets import redact_url, storable
from pipeline.storage import ObjectInfo, Store, absolute_url, open_store

__all__ = ["Found", "find_files", "input_root", "list_shards", "relative_patterns"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_VIDEO_SUFFIXES = tuple(f".{extension}" for extension in sorted(VIDEO_EXTENSIONS))
_PICTURE_SUFFIXES = tuple(f".{extension}" for extension in sorted(PICTURE_EXTENSIONS))
_TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
# What a pattern may name; a folder gives no pictures, which mostly lie beside videos.
_SUFFIXES: dict[InputKind, tuple[str, ...]] = {
    "shards": TAR_SUFFIXES,
    "videos": _VIDEO_SUFFIXES + _PICTURE_SUFFIXES,
    "manifests": _TABLE_SUFFIXES + tuple(f"{suffix}.gz" for suffix in _TABLE_SUFFIXES[1:]),
}
_NOUNS: dict[InputKind, str] = {"shards": "tar", "videos": "video file", "manifests": "manifest"}
_ASKED_AT_ONCE = 16


def input_root(source: InputConfig) -> str:
    """The deepest folder that every pattern lies in. It follows from the patterns alone, not from what they match.

    A pattern that is no file's path names a folder, with or without a slash at its end.
    """
    literals = []
    for pattern in source.patterns:
        url = absolute_url(pattern)
        fixed, *magic = re.split(r"[*?\[{]", url, maxsplit=1)
        folder = fixed.rpartition("/")[0] if magic or _is_named(url, source.kind) else url.rstrip("/")
        literals.append(folder.split("/"))
    shared = literals[0]
    for other in literals[1:]:
        same = [left == right for left, right in zip(shared, other, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    root = "/".join(shared)
    if not shared or root.endswith((":", ":/")):
        raise ConfigError(f"input.{source.kind}: {', '.join(map(redact_url, source.patterns))}: no folder in common")
    return root or "/"


def relative_patterns(source: InputConfig) -> list[str]:
    """The patterns below their root: the same ones wherever the input lies."""
    root = input_root(source)
    return [absolute_url(pattern).removeprefix(root) for pattern in source.patterns]


@dataclass
class Found:
    """What patterns name.

    Attributes:
        store: the input's root.
        files: by their paths.
        others: what lies beside them, by its path, as far as it was seen.
    """

    store: Store
    files: dict[str, ObjectInfo] = field(default_factory=dict)
    others: dict[str, ObjectInfo] = field(default_factory=dict)

    def take(self, infos: Iterable[ObjectInfo], suffixes: Sequence[str], name: str = "*") -> None:
        """Sorts what a listing gave."""
        for info in infos:
            is_meant = _has(info.path, suffixes) and fnmatch.fnmatchcase(posixpath.basename(info.path), name)
            (self.files if is_meant else self.others)[info.path] = info

    def look_for(self, paths: Collection[str]) -> None:
        """Finds some files: by one listing of each folder; on a web server, by one request a file."""
        if self.store.is_web:
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
                self.files.update(
                    {info.path: info for info in threads.map(self.store.info, sorted(paths)) if info is not None}
                )
            return
        for folder in sorted({posixpath.dirname(path) for path in paths}):
            for info in self.store.list(folder):
                (self.files if info.path in paths else self.others)[info.path] = info


def find_files(source: InputConfig, options: Mapping[str, Any] | None = None) -> Found:
    """Finds what the patterns name.

    Args:
        source: the patterns.
        options: how to reach the store, as for `open_store`.

    Raises:
        ConfigError: nothing matches, files named one by one are missing (all of them in the message), or a web server
            does not say their sizes.
        StorageError: the store cannot be listed.
    """
    _refuse_queries(source)
    key, root = f"input.{source.kind}", input_root(source)
    noun, suffixes = _NOUNS[source.kind], _SUFFIXES[source.kind]
    found = Found(open_store(root, options))
    named: set[str] = set()
    for pattern in source.patterns:
        for url in _expand(pattern, key):
            path = absolute_url(url).removeprefix(root).lstrip("/")
            if re.search(r"[*?\[]", path):
                # What lies beside, too: a.txt beside a.mp4.
                wide = re.sub(r"\.[^./]*$", ".*", path) if source.kind == "videos" else path
                found.take(found.store.glob(wide), suffixes, posixpath.basename(path))
            elif _is_named(path, source.kind):
                named.add(path)
            else:
                in_folder = _VIDEO_SUFFIXES if source.kind == "videos" else suffixes
                found.take(found.store.list(path, recursive=True), in_folder)
    if found.store.is_web:
        named |= found.files.keys()  # an index page has no sizes
    found.look_for(named)
    lacks = {path: f"there is no such {noun}" for path in named - found.files.keys()}
    lacks |= {path: "the server does not say its size" for path, info in found.files.items() if not info.has_size}
    if lacks:
        raise ConfigError([f"{key}: {redact_url(found.store.root)}/{path}: {lacks[path]}" for path in sorted(lacks)])
    if not found.files:
        next(found.store.list(), None)  # raises where the whole bucket is missing, which a glob takes for empty
        tried = ", ".join(redact_url(pattern) for pattern in source.patterns)
        wanted = ", ".join(suffixes[:8]) + (" ..." if len(suffixes) > 8 else "")
        raise ConfigError(f"{key}: nothing matches {tried} (expected {wanted} files)")
    for path in found.files if source.kind != "videos" else ():  # no file is named by those
        if not path.isprintable():  # a name that is not UTF-8 comes with half surrogate pairs, which no column holds
            raise ConfigError(f"{key}: {path!a}: the name of a {noun} must be printable UTF-8")
    return found


def list_shards(source: InputConfig, options: Mapping[str, Any] | None = None) -> list[Shard]:
    """Lists the tars that the patterns name, in the order of their paths, each once; see `find_files` for errors."""
    return [
        Shard(shard_id=_shard_id(path), path=path, size_bytes=info.size_bytes, etag=info.etag)
        for path, info in sorted(find_files(source, options).files.items())
    ]


def _has(path: str, suffixes: Sequence[str]) -> bool:
    name = path if suffixes is TAR_SUFFIXES else path.lower()  # .TAR.GZ is no name that the reader of tars knows
    return name.endswith(tuple(suffixes))


def _refuse_queries(source: InputConfig) -> None:
    is_web_query = re.compile(r"https?://[^?]*\?", re.IGNORECASE)
    if links := [p for p in source.patterns if is_web_query.search(p) or storable(p) != p]:
        raise ConfigError(
            [
                f"input.{source.kind}: {redact_url(link)}: behind it a ? begins a query, which may be a signature, and "
                "no dataset keeps those; expected a plain link, or the bucket itself (s3://...)"
                for link in links
            ]
        )


def _is_named(path: str, kind: InputKind) -> bool:
    return _has(path, _SUFFIXES[kind])


def _expand(pattern: str, key: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError:  # its UnbalancedBracesError is one
        raise ConfigError(f"{key}: {redact_url(pattern)}: a brace is not closed") from None


def _shard_id(path: str) -> str:
    name = posixpath.basename(path)
    stem = next((name.removesuffix(suffix) for suffix in TAR_SUFFIXES if name.endswith(suffix)), name)
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:80]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:10]}".lstrip("-")
