"""The one door to storage: local folders and object stores, through fsspec."""

from pipeline.storage.store import ObjectInfo, Store, absolute_url, open_store, redact_url

__all__ = ["ObjectInfo", "Store", "absolute_url", "open_store", "redact_url"]
