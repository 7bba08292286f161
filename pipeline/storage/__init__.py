"""The one door to storage: local folders and object stores, through fsspec."""

from pipeline.storage.listing import ObjectInfo
from pipeline.storage.opening import absolute_url, check_conditional_put, check_folder, open_store, why_not_writable
from pipeline.storage.reader import BLOCK_BYTES
from pipeline.storage.retry import retries
from pipeline.storage.store import Store

__all__ = [
    "BLOCK_BYTES",
    "ObjectInfo",
    "Store",
    "absolute_url",
    "check_conditional_put",
    "check_folder",
    "open_store",
    "retries",
    "why_not_writable",
]
