"""Listing a folder: page by page where the store is S3, by fsspec elsewhere."""

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ObjectInfo", "info_of", "is_file", "pages", "pages_between"]

Attempt = Callable[[Callable[[], Any]], Any]


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


def info_of(raw: Mapping[str, Any], root: str) -> ObjectInfo:
    """What fsspec says of an object, relative to a root."""
    etag = raw.get("ETag") or raw.get("etag")
    return ObjectInfo(
        path=raw["name"].removeprefix(root).lstrip("/"),
        size_bytes=int(raw["size"] or 0),
        etag=None if etag is None else str(etag).strip('"'),
    )


def is_file(raw: Mapping[str, Any]) -> bool:
    """Whether it is an object to read."""
    # fsspec calls a local link neither a file nor a folder, but gives its target's size.
    return raw["type"] == "file" or (bool(raw.get("islink")) and os.path.isfile(raw["name"]))


def pages(filesystem: Any, folder: str, *, recursive: bool, attempt: Attempt) -> Iterator[list[Mapping[str, Any]]]:
    """The objects of a folder in the order of their names, in the form of fsspec's details."""
    if hasattr(filesystem, "call_s3"):
        yield from _s3_pages(filesystem, folder, prefix="", after=None, recursive=recursive, attempt=attempt)
    elif recursive:
        yield _in_order(attempt(lambda: filesystem.find(folder, detail=True)).values())
    else:
        yield _in_order(attempt(lambda: filesystem.ls(folder, detail=True)))


def pages_between(
    filesystem: Any, folder: str, first: str, last: str, *, attempt: Attempt
) -> Iterator[list[Mapping[str, Any]]]:
    """As `pages` of one folder; on S3 the pages that hold the names from `first` to `last`, and no others."""
    if not hasattr(filesystem, "call_s3"):
        yield from pages(filesystem, folder, recursive=False, attempt=attempt)
        return
    after = first[:-1]  # comes before `first`, and before all that does not begin with it only names below it
    prefix = os.path.commonprefix([first, last])  # noqa: RUF071  (of characters, as meant)
    for page in _s3_pages(filesystem, folder, prefix=prefix, after=after, recursive=False, attempt=attempt):
        yield page
        if page and posixpath.basename(page[-1]["name"]) >= last:
            return


def _in_order(raws: Any) -> list[Mapping[str, Any]]:
    return sorted((raw for raw in raws if is_file(raw)), key=lambda raw: str(raw["name"]))


def _s3_pages(
    filesystem: Any, folder: str, *, prefix: str, after: str | None, recursive: bool, attempt: Attempt
) -> Iterator[list[Mapping[str, Any]]]:
    bucket, key, _ = filesystem.split_path(folder)
    base = f"{key.rstrip('/')}/" if key else ""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": base + prefix}
    if not recursive:
        request["Delimiter"] = "/"
    if after is not None:
        request["StartAfter"] = base + after
    while True:
        answer = attempt(lambda: filesystem.call_s3("list_objects_v2", **request))
        yield [
            {"name": f"{bucket}/{item['Key']}", "size": item["Size"], "type": "file", "ETag": item.get("ETag")}
            for item in answer.get("Contents", [])
            if not item["Key"].endswith("/")  # what some tools put for a folder
        ]
        if not answer.get("IsTruncated"):
            return
        request.pop("StartAfter", None)
        request["ContinuationToken"] = answer["NextContinuationToken"]
