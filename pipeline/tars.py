"""The files of a tar, streamed, and how the tar ends: nothing that lies in it may go missing in silence.

The standard tarfile takes a damaged header for the end of the archive, stops at the first end-of-archive block, and
raises all kinds of errors on nonsense; here each of these is told apart.
"""

import contextlib
import gzip
import posixpath
import re
import tarfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import IO, cast

from webdataset.tariterators import base_plus_ext

__all__ = ["Damage", "Member", "TarEnd", "find_member", "read_members"]

_TAR_BLOCK = 512
_SCAN_BYTES = 2**20
# What tarfile raises on a damaged tar: headers that hold nonsense end in the last three.
_TAR_FAULTS = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, IndexError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a tar.

    Attributes:
        key: of its sample: its name up to the first dot.
        extension: the rest of its name.
        data: its content; empty where it is too large.
        size_bytes: of its content.
        offset: of its header, in bytes.
        link: what it points to, where it is a link; links are not followed.
    """

    key: str
    extension: str
    data: bytes
    size_bytes: int
    offset: int
    link: str = ""

    @property
    def is_too_large(self) -> bool:
        """Whether its content was not read, because it has more bytes than are allowed."""
        return len(self.data) < self.size_bytes


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Why a tar cannot be read further; what came before stands.

    Attributes:
        error: class of the reject: truncated, unreadable or empty.
        message: what was found, and where.
        key: of the sample in which it broke off, or empty.
        extension: of the member in which it broke off.
    """

    error: str
    message: str
    key: str = ""
    extension: str = ""


@dataclass(frozen=True)
class TarEnd:
    """How a tar ends, and at which byte."""

    offset: int
    damage: Damage | None


def read_members(opened: IO[bytes], offset: int, max_bytes: int) -> Iterator[Member | TarEnd]:
    """Yields the files of a tar from a member's header on, then how the tar ends; no file above `max_bytes` is read.

    Behind an end-of-archive block more may follow, where tars were joined; that is read too.
    """
    found_any = offset > 0
    try:
        while True:
            following, has_end = _next_data(opened, offset)
            if following is None:
                break
            ended = yield from _archive(opened, following, found_any, max_bytes)
            if ended.damage is not None:
                yield ended
                return
            found_any, offset = True, ended.offset
        damage = None
        if not found_any:
            damage = Damage(error="empty", message="the tar holds no files")
        elif not has_end:
            damage = _truncated(offset, "it ends without an end-of-archive block")
        yield TarEnd(offset, damage)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # of a compressed tar, behind its last member
        yield TarEnd(offset, _unreadable(offset, error, found_any))


def find_member(opened: IO[bytes], offset: int) -> int | None:
    """Where the first header stands from a byte on, wherever in the tar that is; None where there is none."""
    at = -(-offset // _TAR_BLOCK) * _TAR_BLOCK
    opened.seek(at)
    while data := opened.read(_SCAN_BYTES):
        for start in range(0, len(data) - _TAR_BLOCK + 1, _TAR_BLOCK):
            # Most blocks of a video are told by the first test, which is quick.
            if data[start + 257 : start + 262] == b"ustar":
                with contextlib.suppress(tarfile.HeaderError):  # its checksum is not right
                    tarfile.TarInfo.frombuf(data[start : start + _TAR_BLOCK], "utf-8", "surrogateescape")
                    return at + start
        at += len(data)
    return None


def _archive(opened: IO[bytes], offset: int, found_any: bool, max_bytes: int) -> Generator[Member, None, TarEnd]:
    """Yields the files up to an end-of-archive block, or to where the archive breaks off."""
    key, extension, end = "", "", offset
    try:
        opened.seek(offset)
        with tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                # Until its content is whole, whatever breaks is this member's sample.
                (key, extension), end = _split_name(member.name), member.offset
                if member.size < 0 or tar.offset <= member.offset:
                    raise tarfile.ReadError(f"the size {member.size} stands in its header")
                if member.islnk() or member.issym():
                    yield Member(key=key, extension=extension, data=b"", size_bytes=0, offset=end, link=member.linkname)
                elif _is_data(member):
                    size, content = member.size, b""
                    if size <= max_bytes:
                        content = cast(IO[bytes], tar.extractfile(member)).read()
                        size = len(content)
                    else:
                        _check_end(opened, member)
                    yield Member(key=key, extension=extension, data=content, size_bytes=size, offset=end)
                key, extension, end, found_any = "", "", tar.offset, True
        opened.seek(end)
        # tarfile takes a damaged header for the end of the archive; a real end is a block of zeros.
        if opened.read(_TAR_BLOCK).strip(b"\0"):
            return TarEnd(end, _truncated(end, "no tar header stands"))
    except _TAR_FAULTS as error:
        return TarEnd(end, _unreadable(end, error, found_any, key, extension))
    return TarEnd(end, None)


def _check_end(opened: IO[bytes], member: tarfile.TarInfo) -> None:
    """Raises where a member's content, which is not read, breaks off."""
    opened.seek(member.offset_data + member.size - 1)
    if not opened.read(1):
        raise tarfile.ReadError("unexpected end of data")


def _next_data(opened: IO[bytes], offset: int) -> tuple[int | None, bool]:
    """The first block from `offset` on that is not all zeros, and whether there is any block at all."""
    opened.seek(offset)
    size = _TAR_BLOCK  # mostly the first block is a header
    at = offset
    while data := opened.read(size):
        if data.strip(b"\0"):
            first = len(data) - len(data.lstrip(b"\0"))
            return at + first // _TAR_BLOCK * _TAR_BLOCK, True
        at, size = at + len(data), _SCAN_BYTES
    return None, at > offset


def _truncated(offset: int, what: str) -> Damage:
    return Damage(error="truncated", message=f"{what} at byte {offset}; videos that may have followed are lost")


def _unreadable(offset: int, error: BaseException, found_any: bool, key: str = "", extension: str = "") -> Damage:
    kind = "truncated" if found_any or key else "unreadable"
    message = f"the tar cannot be read from byte {offset} on: {error}"
    return Damage(error=kind, message=message, key=key, extension=extension)


def _split_name(name: str) -> tuple[str, str]:
    """A member's sample key and extension; a name without an extension is its own key."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # old tars hold any bytes
    key, extension = base_plus_ext(name)
    return (name, "") if key is None else (key, extension)


def _is_data(member: tarfile.TarInfo) -> bool:
    """Whether a member belongs to a sample: a file, neither of macOS's shadows nor webdataset's own (`__name__`)."""
    name = posixpath.basename(member.name)
    return member.isfile() and not re.match(r"\._|\.DS_Store$|__[^/]*__(\.|$)", name)
