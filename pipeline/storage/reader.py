"""A stored object, open to read: any failure of the store comes out as StorageError."""

import io
from collections.abc import Callable
from typing import Any

from pipeline.storage.faults import ShortRead

__all__ = ["BLOCK_BYTES", "ObjectReader"]

# One request of a sequential read. Large, because each is a round trip on an object store.
BLOCK_BYTES = 16 * 2**20


class ObjectReader(io.RawIOBase):
    """Seekable bytes of one object, fetched in blocks; each block whole or an error.

    Attributes:
        size_bytes: the object's size when it was opened.
        etag: what its store called its content then, or None.
    """

    def __init__(
        self,
        opened: Any,
        attempt: Callable[[Callable[[], bytes]], bytes],
        read_whole: Callable[[], bytes] | None,
        *,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Reads from a file object of fsspec's.

        Args:
            opened: that object.
            attempt: makes one request, again where that may help.
            read_whole: gets the whole object, where the store is a web server, which may give no ranges.
            block_bytes: of one request of a sequential read, at least.
        """
        self._block_bytes = block_bytes
        self._read_whole = read_whole
        self._opened = opened
        self._attempt = attempt
        self._position = 0
        self._block = b""
        self._block_start = 0
        self.size_bytes = int(opened.size or 0)  # fsspec has none of an empty object of a web server
        details = getattr(opened, "details", None)
        etag = details.get("ETag") if isinstance(details, dict) else None
        self.etag = None if etag is None else str(etag).strip('"')

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes (all that is left for -1); fewer only at the end."""
        left = max(0, self.size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted:
            start = self._position - self._block_start
            if not 0 <= start < len(self._block):
                length = min(max(wanted, self._block_bytes), self.size_bytes - self._position)
                self._block, self._block_start, start = self._fetch(self._position, length), self._position, 0
            piece = self._block[start : start + wanted]
            pieces.append(piece)
            self._position += len(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fetch(self, start: int, length: int) -> bytes:
        def once() -> bytes:
            self._opened.seek(start)
            try:
                data = bytes(self._opened.read(length))
            except ValueError:  # how fsspec says that a web server gives no ranges
                if self._read_whole is None:
                    raise
                self._opened = io.BytesIO(self._read_whole())
                data = self._opened.read()[start : start + length]
            if len(data) != length:
                raise ShortRead(f"{len(data)} bytes came from byte {start} on, expected {length}")
            return data

        return self._attempt(once)

    def readinto(self, buffer: Any, /) -> int:
        """Fills `buffer`; fewer bytes only at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to a byte; nothing is fetched until it is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to byte {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The byte at which the next read begins."""
        return self._position

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Closes the object and drops what was fetched ahead."""
        if not self.closed:
            self._opened.close()
            self._block = b""
        super().close()
