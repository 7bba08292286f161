"""A proxy before an S3 server that misbehaves, by seeded dice: drops, delays, refusals, bodies and answers cut off."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

__all__ = ["FAULTS", "MisbehavingProxy"]

FAULTS = ("drop", "delay", "slow-down", "too-many", "cut", "lose-answer")
_DELAY_SECONDS = 0.3
_REFUSALS = {"slow-down": ("503 Slow Down", "SlowDown"), "too-many": ("429 Too Many Requests", "TooManyRequests")}


class MisbehavingProxy:
    """Serves while the block runs; `requests` and `faults` count what it saw and did."""

    def __init__(self, endpoint: str, *, rate: float = 0.0, seed: int = 0, drop_headers: frozenset[str] = frozenset()):
        """Stands before `endpoint`; each fault happens to a request with the probability `rate`.

        `drop_headers` (lower case) are taken out of each request: a store that does not know them.
        """
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self._rate = rate
        self._dice = random.Random(seed)
        self._drop_headers = drop_headers
        self.requests: Counter[str] = Counter()
        self.read_paths: list[str] = []  # of each GET that is no LIST
        self.faults: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = serving.result()
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read_message(
                reader, on_expect=lambda: writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            ):
                self._count(request)
                if not await self._answer(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the proxy is being stopped
        finally:
            writer.transport.abort()

    def _count(self, request: bytes) -> None:
        method, path = request.split(b" ", 2)[:2]
        kind = "LIST" if b"list-type=2" in path else method.decode()
        self.requests[kind] += 1
        if kind == "GET":
            self.read_paths.append(path.decode())

    def _fault(self) -> str | None:
        for fault in FAULTS:
            if self._dice.random() < self._rate:
                self.faults[fault] += 1
                return fault
        return None

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False where the connection is to be cut."""
        fault = self._fault()
        if fault == "drop":
            return False
        if fault == "delay":
            await asyncio.sleep(_DELAY_SECONDS)
        if fault in _REFUSALS:
            status, code = _REFUSALS[fault]
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + (b"" if request.startswith(b"HEAD") else body))
            await writer.drain()
            return True
        answer = await self._forward(request)
        if fault == "lose-answer":
            return False
        head, _, body = answer.partition(b"\r\n\r\n")
        if fault in ("cut", "cut-in-silence") and len(body) > 1:
            body = body[: self._dice.randrange(len(body))]
            if fault == "cut":  # the length says that more was to come
                writer.write(head + b"\r\n\r\n" + body)
                await writer.drain()
                return False
            head = _with_length(head, len(body))
        writer.write(head + b"\r\n\r\n" + body)
        await writer.drain()
        return True

    async def _forward(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if line.split(b":")[0].decode().lower() not in self._drop_headers]
        lines = [line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))]
        reader, writer = await asyncio.open_connection(*self._target)
        try:
            writer.write(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            await writer.drain()
            return await _read_message(reader, answer_to=head.split(b" ", 1)[0])
        finally:
            writer.close()


async def _read_message(
    reader: asyncio.StreamReader, answer_to: bytes = b"", on_expect: Callable[[], None] = lambda: None
) -> bytes:
    """One request or answer, whole, with a plain length; empty where the other side is done."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    if fields.get(b"expect") == b"100-continue":
        on_expect()  # the body comes only then
    if answer_to == b"HEAD" or head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")):
        return head
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        kept = [line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(b"transfer-encoding")]
        return _with_length(b"\r\n".join(kept), len(body)) + b"\r\n\r\n" + body
    if b"content-length" in fields:
        return head + await reader.readexactly(int(fields[b"content-length"]))
    return head + (await reader.read() if answer_to else b"")


def _with_length(head: bytes, length: int) -> bytes:
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*kept, f"Content-Length: {length}".encode()])
