"""Which shards there are: patterns in a job file become a list that the first run freezes."""

import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from braceexpand import braceexpand

from pipeline.errors import ConfigError
from pipeline.records import Shard
from pipeline.storage import ObjectInfo, absolute_url, open_store, redact_url

__all__ = ["TAR_SUFFIXES", "input_root", "list_shards"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def input_root(patterns: str | Iterable[str]) -> str:
    """The deepest folder that every pattern lies in. It follows from the patterns alone, not from what they match."""
    literals = []
    for pattern in _as_list(patterns):
        url = absolute_url(pattern)
        fixed = re.split(r"[*?\[{]", url, maxsplit=1)[0]
        literals.append(fixed.rpartition("/")[0].split("/"))
    shared = literals[0]
    for other in literals[1:]:
        same = [left == right for left, right in zip(shared, other, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    root = "/".join(shared)
    if root.endswith(":/") or root.endswith(":"):
        raise ConfigError(f"input.shards: {', '.join(map(redact_url, _as_list(patterns)))} have no folder in common")
    return root or "/"


def list_shards(patterns: str | Iterable[str], options: Mapping[str, Any] | None = None) -> list[Shard]:
    """Lists the tars that the patterns name, in the order of their paths, each once.

    Args:
        patterns: paths, brace patterns, globs, folders or prefixes (see InputConfig.shards).
        options: how to reach the store, as for `open_store`.

    Raises:
        ConfigError: nothing matches, or tars named one by one are missing (all of them in the message).
        StorageError: the store cannot be listed.
    """
    root = input_root(patterns)
    store = open_store(root, options)
    found: dict[str, ObjectInfo] = {}
    named: dict[str, set[str]] = defaultdict(set)
    for pattern in _as_list(patterns):
        for url in _expand(pattern):
            path = absolute_url(url).removeprefix(root).lstrip("/")
            if re.search(r"[*?\[]", path):
                found |= {info.path: info for info in store.glob(path)}
            elif path == "" or path.endswith("/") or (not path.endswith(TAR_SUFFIXES) and store.is_folder(path)):
                folder = path.rstrip("/") + "/" if path else ""
                inside = store.list(folder, recursive=True)
                found |= {info.path: info for info in inside if info.path.endswith(TAR_SUFFIXES)}
            else:
                named[posixpath.dirname(path)].add(path)
    missing: list[str] = []
    for folder, paths in named.items():
        # One listing of the folder, not one request a tar.
        there = {info.path: info for info in store.list(f"{folder}/" if folder else "")}
        found |= {path: there[path] for path in paths & there.keys()}
        missing += sorted(paths - there.keys())
    if missing:
        raise ConfigError([f"input.shards: {redact_url(store.root)}/{path}: there is no such tar" for path in missing])
    if not found:
        tried = ", ".join(redact_url(pattern) for pattern in _as_list(patterns))
        raise ConfigError(f"input.shards: nothing matches {tried} (expected {', '.join(TAR_SUFFIXES)} files)")
    return [
        Shard(shard_id=_shard_id(path), path=path, size_bytes=info.size_bytes, etag=info.etag)
        for path, info in sorted(found.items())
    ]


def _as_list(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _expand(pattern: str) -> list[str]:
    try:
        return list(braceexpand(pattern))
    except ValueError:  # its UnbalancedBracesError is one
        raise ConfigError(f"input.shards: {pattern}: a brace is not closed") from None


def _shard_id(path: str) -> str:
    name = posixpath.basename(path)
    stem = next((name.removesuffix(suffix) for suffix in TAR_SUFFIXES if name.endswith(suffix)), name)
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-")[:80]
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:10]}".lstrip("-")
