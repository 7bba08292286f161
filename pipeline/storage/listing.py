"""Listing a folder: page by page where the store is S3, by fsspec elsewhere."""

import bisect
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ObjectInfo", "info_of", "is_file", "pages", "present"]

# How many names one LIST answers at most; fixed by S3.
_LISTED_AT_ONCE = 1000

Attempt = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One stored object.

    Attributes:
        path: its path relative to the store's root.
        size_bytes: its size.
        etag: what the store says identifies its content, or None (local files have none).
        has_size: whether the store said the size; a web server may not, and size_bytes is 0 then.
    """

    path: str
    size_bytes: int
    etag: str | None
    has_size: bool = True


def info_of(raw: Mapping[str, Any], root: str) -> ObjectInfo:
    """What fsspec says of an object, relative to a root."""
    # Hugging Face's file system has the git blob, which for a large file holds its sha256, or a bucket's hash.
    etag = next((raw[name] for name in ("ETag", "etag", "blob_id", "xet_hash") if raw.get(name)), None)
    return ObjectInfo(
        path=raw["name"].removeprefix(root).lstrip("/"),
        size_bytes=int(raw["size"] or 0),
        etag=None if etag is None else str(etag).strip('"'),
        has_size=raw["size"] is not None,
    )


def is_file(raw: Mapping[str, Any]) -> bool:
    """Whether it is an object to read."""
    # fsspec calls a local link neither a file nor a folder, but gives its target's size.
    return raw["type"] == "file" or (bool(raw.get("islink")) and os.path.isfile(raw["name"]))


def pages(filesystem: Any, folder: str, *, recursive: bool, attempt: Attempt) -> Iterator[list[Mapping[str, Any]]]:
    """The objects of a folder in the order of their names, in the form of fsspec's details."""
    if hasattr(filesystem, "call_s3"):
        yield from _s3_pages(filesystem, folder, recursive=recursive, attempt=attempt)
    elif recursive:
        yield _in_order(attempt(lambda: filesystem.find(folder, detail=True)).values())
    else:
        yield _in_order(attempt(lambda: filesystem.ls(folder, detail=True)))


def present(filesystem: Any, folder: str, names: Sequence[str], *, attempt: Attempt) -> Iterator[Mapping[str, Any]]:
    """The objects of a folder with some names, which must rise: on S3 by one LIST for a thousand of them.

    A LIST begins at the next name that is not decided yet, so that what lies between two names is not gone through.
    """
    if not hasattr(filesystem, "call_s3"):
        wanted = set(names)
        for page in pages(filesystem, folder, recursive=False, attempt=attempt) if names else ():
            yield from (raw for raw in page if posixpath.basename(raw["name"]) in wanted)
        return
    decided = 0
    while decided < len(names):
        some = names[decided : decided + _LISTED_AT_ONCE]
        prefix = os.path.commonprefix([some[0], some[-1]])  # noqa: RUF071  (of characters, as meant)
        bucket_path = filesystem.split_path(folder)[1].rstrip("/")
        before = posixpath.join(bucket_path, some[0][:-1])
        page, token = _s3_page(filesystem, folder, prefix, {"StartAfter": before}, attempt)
        found = [posixpath.basename(raw["name"]) for raw in page]
        if found != sorted(found) or (found and found[0] < some[0][:-1]):
            # A store whose LIST is not in the order of names, or that takes no StartAfter: all is gone through.
            left = set(names[decided:])
            everything = _s3_pages(filesystem, folder, recursive=False, attempt=attempt)
            yield from (raw for page in everything for raw in page if posixpath.basename(raw["name"]) in left)
            return
        decided += len(some) if token is None or not page else bisect.bisect_right(some, found[-1])
        asked = set(some)
        yield from (raw for raw, name in zip(page, found, strict=True) if name in asked)


def _in_order(raws: Any) -> list[Mapping[str, Any]]:
    return sorted((raw for raw in raws if is_file(raw)), key=lambda raw: str(raw["name"]))


def _s3_pages(filesystem: Any, folder: str, *, recursive: bool, attempt: Attempt) -> Iterator[list[Mapping[str, Any]]]:
    options: dict[str, Any] = {} if recursive else {"Delimiter": "/"}
    while True:
        page, token = _s3_page(filesystem, folder, "", options, attempt)
        yield page
        if token is None:
            return
        options["ContinuationToken"] = token


def _s3_page(
    filesystem: Any, folder: str, prefix: str, options: Mapping[str, Any], attempt: Attempt
) -> tuple[list[Mapping[str, Any]], str | None]:
    """One LIST of what begins with `prefix` in a folder, and the token of the next page where there is one."""
    bucket, key, _ = filesystem.split_path(folder)
    base = f"{key.rstrip('/')}/" if key else ""
    answer = attempt(lambda: filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{base}{prefix}", **options))
    page: list[Mapping[str, Any]] = [
        {"name": f"{bucket}/{item['Key']}", "size": item["Size"], "type": "file", "ETag": item.get("ETag")}
        for item in answer.get("Contents", [])
        if not item["Key"].endswith("/")  # what some tools put for a folder
    ]
    return page, answer["NextContinuationToken"] if answer.get("IsTruncated") else None
