"""Row groups as they are in memory, on a local disk: mapped and not decoded again, by all processes of a machine.

A file is a row group's columns as Arrow's IPC format, uncompressed. Its name is made of the part's sha256, so nothing
in here can be out of date, and datasets may share a folder. It comes into being whole (by a rename) and is mapped by
whoever reads it, so removing it takes it from nobody.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from pipeline.errors import ConfigError

__all__ = ["GroupCache"]

_LOCKS = 64
_SUFFIX = ".arrow"


class GroupCache:
    """A folder of row groups that keeps to a size: what was not used for longest goes first."""

    def __init__(self, folder: str, max_bytes: int) -> None:
        """Takes a folder, which is made.

        Args:
            folder: on a local disk; any number of processes may use it.
            max_bytes: of all files in it, but for one that is being written.

        Raises:
            ConfigError: it cannot be written to.
        """
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise ConfigError(f"cache_dir {folder}: cannot be written to: {error}") from None

    def get(self, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The table of that key; made and kept where it is not there. Of several processes, one makes it."""
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        path = self._folder / f"{name}{_SUFFIX}"
        if (table := _mapped(path)) is not None:
            return table
        with FileLock(self._folder / f"{int(name[:8], 16) % _LOCKS:02d}.lock"):
            if (table := _mapped(path)) is not None:
                return table
            table = make()
            try:
                self._write(path, table)
            except OSError:  # a full disk: what was made is here all the same
                return table
        return _mapped(path) or table

    def _write(self, path: Path, table: pa.Table) -> None:
        with FileLock(self._folder / "size.lock"):
            self._make_room(table.nbytes)
        handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _make_room(self, size_bytes: int) -> None:
        found = []
        for entry in os.scandir(self._folder):
            if entry.name.endswith((_SUFFIX, ".tmp")):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + size_bytes <= self._max_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def _mapped(path: Path) -> pa.Table | None:
    """The table that a file holds, over the file's own pages; None where it is not there or is none of ours."""
    try:
        os.utime(path)
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        return table
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError):  # cut off by a machine that went down
        with contextlib.suppress(OSError):
            path.unlink()
        return None
