"""The ways to write: put-if-absent in one step, the only write that commits rely on, and plain replacement."""

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.crash_points import crash_point
from pipeline.storage.faults import is_refused_condition

__all__ = ["HAVE_CONDITION", "create", "create_local", "replace", "replace_local"]

# Where the library sends the condition along with the data. All others look first and write then, which is a race.
HAVE_CONDITION = frozenset({"file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

# Below twice this size s3fs sends one PUT. A multipart upload would not do: not every store honours the
# condition when it is completed.
_ONE_REQUEST_BYTES = 2 * 2**30
# After so long, and a second more for each of these bytes, a write is given up, and may be sent again.
_WRITE_SECONDS = 60
_SLOWEST_BYTES_PER_SECOND = 2**20


def create(filesystem: Any, path: str, data: bytes) -> bool:
    """Writes to an object store on the condition that the name is free; False where it is taken."""
    options = {"chunksize": _ONE_REQUEST_BYTES} if hasattr(filesystem, "call_s3") else {}
    try:
        replace(filesystem, path, data, mode="create", **options)
    except Exception as error:  # told apart at once; whatever is not a refusal goes on up
        if is_refused_condition(error):
            return False
        raise
    return True


def replace(filesystem: Any, path: str, data: bytes, **options: Any) -> None:
    """Writes to an object store, over what stands there; TimeoutError where the store does not take it in time."""
    if getattr(filesystem, "async_impl", False):
        # The libraries bound the wait for an answer, but not for the store to take the body.
        options["timeout"] = _WRITE_SECONDS + len(data) // _SLOWEST_BYTES_PER_SECOND
    filesystem.pipe_file(path, data, **options)


def create_local(root: str, path: str, data: bytes) -> bool:
    """Writes below a local folder: a whole file under another name, then a hard link that fails if the name exists."""

    def link(name: Path, final: Path) -> bool:
        try:
            os.link(name, final)
        except FileExistsError:
            return False
        return True

    return _write_beside(root, path, data, link)


def replace_local(root: str, path: str, data: bytes) -> None:
    """Writes below a local folder, over what stands there: a reader sees the old file or the new one, whole."""

    def replace(name: Path, final: Path) -> bool:
        os.replace(name, final)
        return True

    _write_beside(root, path, data, replace)


def _write_beside(root: str, path: str, data: bytes, publish: Callable[[Path, Path], bool]) -> bool:
    final = Path(root, path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # Beside the data but outside what a reader's glob sees, and on the same file system, as a link needs.
    scratch = Path(root, "_tmp")
    scratch.mkdir(exist_ok=True)
    name = scratch / uuid.uuid4().hex
    try:
        with name.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        crash_point("local-file-written")
        published = publish(name, final)
        crash_point("local-file-linked")
        _sync_folder(final.parent)
    finally:
        name.unlink(missing_ok=True)
    return published


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)
