"""The one door to storage: local folders and object stores, through fsspec."""

from pipeline.storage.listing import ObjectInfo
from pipeline.storage.opening import absolute_url, check_conditional_put, open_store, why_not_writable
from pipeline.storage.retry import retries
from pipeline.storage.store import Store

__all__ = ["ObjectInfo", "Store", "absolute_url", "check_conditional_put", "open_store", "retries", "why_not_writable"]
