"""From a URL in a job file to a store, and the check that it can be relied on."""

import errno
import logging
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any

from fsspec import available_protocols
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from pipeline.errors import ConfigError, StorageError
from pipeline.secrets import redact_url
from pipeline.storage.faults import describe, store_faults
from pipeline.storage.store import RETRY_SECONDS, Store
from pipeline.storage.writes import HAVE_CONDITION

__all__ = ["absolute_url", "check_conditional_put", "check_folder", "open_store", "why_not_writable"]

# Of one request: to a connection, and between two packets of an answer.
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
# How a local file system says that it has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_READ_ONLY = {"data", "git", "github", "http", "https", "libarchive", "reference", "tar"}
# What brings the package of a protocol.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
    "hf": "hf",
}
_REMEDY = (
    "so two writers could overwrite each other; use a store that refuses it, or set "
    "storage.output.allow_single_writer: true and never run two jobs on this output at once"
)

log = logging.getLogger(__name__)


def absolute_url(url: str) -> str:
    """`url` unchanged where it names a protocol; a local path made absolute, since workers have other folders."""
    if "://" in url or "::" in url:
        return url
    trailing = "/" if url.endswith("/") else ""
    return os.path.abspath(os.path.expanduser(url)).rstrip("/") + trailing


def why_not_writable(url: str, *, single_writer: bool) -> str | None:
    """Why no dataset can stand at a URL, as far as its protocol tells; None where it may.

    Args:
        url: a local path or any URL.
        single_writer: whether nobody else writes there (see `Store.put_if_absent`).
    """
    protocol = get_protocol(url)
    if protocol in _READ_ONLY:
        return (
            f"{redact_url(url)}: {protocol} can only be read; expected a folder, s3://, gs:// or az:// (the address of "
            "an S3 server goes into storage.output.endpoint_url)"
        )
    if single_writer or protocol in HAVE_CONDITION or protocol not in available_protocols():
        return None  # what nobody knows is told when the store is opened
    return f"{redact_url(url)}: {protocol} has no conditional write, {_REMEDY}"


def open_store(root: str, options: Mapping[str, Any] | None = None) -> Store:
    """Opens the folder `root` (a local path or any URL that fsspec knows).

    Args:
        root: the folder. It need not exist.
        options: `endpoint_url`, `anon`, `region` and `profile`, where the store has such things; `retry_seconds`, for
            how long a request is tried again; `answer_seconds`, for how long S3 may be silent within one;
            `allow_single_writer`, see `Store.put_if_absent`.

    Raises:
        ConfigError: the protocol is unknown, its package is not installed, or the endpoint is no URL.
        StorageError: it wants a connection at once, and there is none.
    """
    url = absolute_url(root)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        filesystem, path = url_to_fs(url, **_filesystem_options(url, given))
    except (ValueError, ImportError) as error:
        extra = _EXTRAS.get(get_protocol(url)) if isinstance(error, ImportError) else None
        remedy = f" (pip install 'vidtok-pipeline[{extra}]')" if extra else ""
        raise ConfigError(f"{redact_url(url)}: this store cannot be opened: {error}{remedy}") from None
    except store_faults() as error:  # of those that connect at once, as ftp
        raise StorageError(describe(error, "open", url)) from error
    if hasattr(filesystem, "call_s3"):
        filesystem.retries = 1  # tried again here, where it is counted and bounded
    return Store(
        filesystem,
        path,
        retry_seconds=given.get("retry_seconds", RETRY_SECONDS),
        single_writer=given.get("allow_single_writer", False),
    )


def _filesystem_options(url: str, given: Mapping[str, Any]) -> dict[str, Any]:
    protocol, _, rest = url.partition("://")
    if protocol in ("s3", "s3a", "gs", "gcs") and "@" in rest.split("/")[0]:
        raise ConfigError(f"{redact_url(url)}: credentials in a URL would end up in logs; put them in the environment")
    endpoint = given.get("endpoint_url")
    if endpoint is not None and not re.fullmatch(
        r"https?://[^/\s?#]+(/[^\s?#]*)?", endpoint
    ):  # botocore's ValueError comes late
        raise ConfigError(f"endpoint_url: {redact_url(endpoint)}: expected http://host:port or https://host")
    if protocol in ("s3", "s3a"):
        return _s3_options(given)
    if protocol in ("gs", "gcs"):
        address = {} if endpoint is None else {"endpoint_url": endpoint}
        return {**address, "token": "anon"} if given.get("anon") else address
    if protocol in ("az", "abfs", "abfss"):
        if endpoint is not None:
            raise ConfigError("endpoint_url: Azure's stands in AZURE_STORAGE_CONNECTION_STRING, in the environment")
        return {name: given[name] for name in ("anon",) if name in given}
    # The rest has none of these. Address and token of Hugging Face's stand in the environment: the options that come
    # here are those of a job's videos, which lie elsewhere.
    return {}


def _s3_options(given: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {name: given[name] for name in ("endpoint_url", "anon", "profile") if name in given}
    if "region" in given:
        result["client_kwargs"] = {"region_name": given["region"]}
    result["config_kwargs"] = {
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": given.get("answer_seconds", _READ_SECONDS),
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }
    # Listings change while a job runs, so none may come from a cache.
    return {**result, "use_listings_cache": False, "default_fill_cache": False}


def check_folder(store: Store) -> None:
    """Looks whether files may be made in a local store, and makes none; what other stores allow, only a write tells.

    Raises:
        ConfigError: it, or the folder in which it would be made, may not be written to.
    """
    if not store.is_local:
        return
    folder = store.root
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output: {store.root}: {folder} may not be written to")


def check_conditional_put(store: Store) -> None:
    """Tries that the store refuses a second write of a name, which everything relies on.

    Raises:
        ConfigError: it does not, and `allow_single_writer` is not set.
        StorageError: nothing can be written there.
    """
    if store.single_writer:
        return
    name = f"_probe/{uuid.uuid4().hex}"
    if not HAVE_CONDITION & set(store.protocols):
        raise ConfigError(f"output: {store.root}: {store.protocols[0]} has no conditional write, {_REMEDY}")
    try:
        store.put_if_absent(name, b"first")
        second = store.put_if_absent(name, b"second")
        standing = store.read(name)
    except StorageError as error:
        cause = error.__cause__
        no_links = isinstance(cause, OSError) and cause.errno in _NO_LINKS and store.is_local
        if no_links or isinstance(cause, NotImplementedError) or "NotImplemented" in str(error):
            raise ConfigError(f"output: {store.root} knows no conditional write ({error}), {_REMEDY}") from None
        raise
    finally:
        try:
            store.delete(name)
        except StorageError as error:  # a right that is not needed otherwise
            log.warning("the probe stays: %s", error)
    if second or standing != b"first":
        raise ConfigError(f"output: {store.root} lets a second write of a name replace the first, {_REMEDY}")
