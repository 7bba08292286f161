"""A stored object, open to read: any failure of the store comes out as StorageError."""

import io
from typing import Any

from pipeline.errors import StorageError
from pipeline.storage.faults import STORE_FAULTS, describe

__all__ = ["ObjectReader"]


class ObjectReader(io.RawIOBase):
    """Seekable bytes of one object.

    Attributes:
        size_bytes: the object's size when it was opened.
    """

    def __init__(self, opened: Any, where: str) -> None:
        self._opened = opened
        self._where = where
        self.size_bytes = int(opened.size)

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes (all that is left for -1); fewer only at the end."""
        try:
            return bytes(self._opened.read(-1 if size is None else size))
        except STORE_FAULTS as error:
            raise StorageError(describe(error, "read", self._where)) from error

    def readinto(self, buffer: Any, /) -> int:
        """Fills `buffer`; fewer bytes only at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to a byte; nothing is fetched until it is read."""
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        """The byte at which the next read begins."""
        return int(self._opened.tell())

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
        super().close()
