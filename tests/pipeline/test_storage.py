"""The door to storage: one writer wins, nothing half-written is seen, and every failure names its object."""

import errno
import glob
import io
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import CommitStateUnknown, ConfigError, StorageError
from pipeline.storage import Store, check_conditional_put, check_folder, open_store, writes
from pipeline.storage.faults import is_transient
from tests.support import require_module

SECRETS = ("hunter2", "Signature", "testing")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty root that does not exist yet."""
    if request.param == "local":
        return open_store(str(tmp_path / "root"))
    options = {"endpoint_url": request.getfixturevalue("s3_endpoint")}
    return open_store(f"s3://{request.getfixturevalue('bucket')}/{tmp_path.name}", options)


def everything(store: Store) -> list[str]:
    return [info.path for info in store.list(recursive=True)]


def test_the_first_put_stays(store: Store) -> None:
    assert everything(store) == []
    assert store.put_if_absent("data/a.parquet", b"first") is True
    assert store.put_if_absent("data/a.parquet", b"second, longer") is False
    assert store.read("data/a.parquet") == b"first"
    assert store.put_if_absent("data/empty", b"") is True and store.read("data/empty") == b""
    assert everything(store) == ["data/a.parquet", "data/empty"], "and nothing temporary is left"


def test_of_32_racing_writers_one_wins(store: Store) -> None:
    contents = [bytes([number]) * 100_000 for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(lambda data: store.put_if_absent("data/part.parquet", data), contents))
    assert won.count(True) == 1
    assert store.read("data/part.parquet") == contents[won.index(True)]
    assert everything(store) == ["data/part.parquet"]


def test_what_is_half_written_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is whole a local file stands outside data/, and none is left where the write fails."""
    seen: list[list[str]] = []

    def full_disk(_: int) -> None:
        seen.append(glob.glob(f"{tmp_path}/data/**", recursive=True, include_hidden=True))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    store = open_store(str(tmp_path))
    with pytest.raises(StorageError, match=r"cannot write .*/data/a\.parquet: .*No space left"):
        store.put_if_absent("data/a.parquet", b"x" * 1000)
    assert seen == [[f"{tmp_path}/data/"]]
    assert everything(store) == []


def test_a_file_system_without_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(ConfigError, match=r"knows no conditional write .*allow_single_writer: true"):
        check_conditional_put(open_store(str(tmp_path)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is left behind"
    check_conditional_put(open_store(str(tmp_path), {"allow_single_writer": True}))


def test_a_file_system_whose_folders_cannot_be_synced_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    store = open_store(str(tmp_path))
    check_conditional_put(store)
    assert store.put_if_absent("a", b"1") and not store.put_if_absent("a", b"2")


def test_a_library_that_looks_first_and_writes_then_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory has no conditional write, .*allow_single_writer: true"):
        check_conditional_put(open_store("memory://somewhere"))
    alone = open_store("memory://somewhere", {"allow_single_writer": True})
    check_conditional_put(alone)
    assert alone.put_if_absent("a", b"1") is True and alone.put_if_absent("a", b"2") is False
    assert alone.read("a") == b"1"


def test_a_put_lasts_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a test can see: the file is synced, and after it has its name the folder."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    open_store(str(tmp_path)).put_if_absent("data/a", b"1")
    (file, folder) = synced
    assert Path(file).parent == tmp_path / "_tmp" and folder == str(tmp_path / "data")


def test_a_body_that_is_too_short_is_no_end(tmp_path: Path) -> None:
    """Not where the object ends: the block is asked for again, and then it is an error."""
    (tmp_path / "x").write_bytes(b"0123456789")
    store = open_store(str(tmp_path), {"retry_seconds": 1})
    with store.open("x") as file:
        short = [3, 0]
        real = file._opened.read
        file._opened = SimpleNamespace(
            seek=file._opened.seek, read=lambda size: real(short.pop(0) if short else size), close=file._opened.close
        )
        assert file.read() == b"0123456789" and not short
        file._opened.read, file._block = lambda _: b"", b""
        file.seek(0)
        with pytest.raises(
            StorageError, match=r"cannot read .*/x: ShortRead: 0 bytes came from byte 0 on, expected 10"
        ):
            file.read()


def test_a_probe_that_may_not_be_removed_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def delete(*_: object) -> None:
        raise StorageError("no right to remove")

    monkeypatch.setattr(Store, "delete", delete)
    check_conditional_put(open_store(str(tmp_path)))
    assert "the probe stays: no right to remove" in caplog.text


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections, and neither reads nor answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("size", [1, 8 * 2**20])
def test_a_store_that_never_takes_a_write_is_given_up(
    silent_server: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library waits for leave to send the body, and while it sends it, without a limit."""
    require_module("s3fs")
    monkeypatch.setattr(writes, "_WRITE_SECONDS", 1)
    monkeypatch.setattr(writes, "_SLOWEST_BYTES_PER_SECOND", 2**23)
    store = open_store("s3://bucket/root", {"endpoint_url": silent_server, "retry_seconds": 1})
    for write in (store.put_if_absent, store.put):
        began = time.monotonic()
        with pytest.raises(CommitStateUnknown, match=r"cannot write s3://bucket/root/x: .*Timeout"):
            write("x", b"1" * size)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (OSError(errno.ENOSPC, "No space left"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "none"), False),
    ],
)
def test_which_failures_pass(error: OSError, passes: bool) -> None:
    assert is_transient(error) is passes


@pytest.mark.parametrize(("status", "passes"), [(500, True), (522, True), (429, True), (501, False), (403, False)])
def test_which_answers_pass(status: int, passes: bool) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": "Any"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert is_transient(botocore.ClientError(answer, "PutObject")) is passes


@pytest.mark.parametrize(
    ("code", "status", "passes"),
    [("ConditionalRequestConflict", 409, True), ("SlowDown", 200, True), ("AccessDenied", 403, False)],
)
def test_which_codes_pass(code: str, status: int, passes: bool) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert is_transient(botocore.ClientError(answer, "PutObject")) is passes


def test_lists(store: Store) -> None:
    for path in ("b/2", "b/1", "b/c/3", "bc/4", "a"):
        store.put_if_absent(path, path.encode())
    assert [info.path for info in store.list("b")] == ["b/1", "b/2"]
    assert [info.path for info in store.list("b/")] == ["b/1", "b/2"]
    assert [info.path for info in store.list()] == ["a"]
    assert [info.path for info in store.list("b", recursive=True)] == ["b/1", "b/2", "b/c/3"]
    assert everything(store) == ["a", "b/1", "b/2", "b/c/3", "bc/4"]
    assert list(store.list("nothing")) == list(store.list("nothing", recursive=True)) == []
    assert [info.path for info in store.glob("b*/?")] == ["b/1", "b/2", "bc/4"]
    assert [(info.path, info.size_bytes) for info in (store.info("b/c/3"),) if info] == [("b/c/3", 5)]
    assert store.info("b") is None and store.info("b/9") is None


def test_a_listing_is_never_an_old_one(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    """Others write while we list."""
    import boto3

    store = open_store(f"s3://{bucket}/{tmp_path.name}", {"endpoint_url": s3_endpoint})
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for number in range(3):
        client.put_object(Bucket=bucket, Key=f"{tmp_path.name}/d/{number}", Body=b"1" * number)
        assert len(list(store.list("d"))) == len(list(store.glob("d/*"))) == len(everything(store)) == number + 1
        client.put_object(Bucket=bucket, Key=f"{tmp_path.name}/d/0", Body=b"x" * number)
        info = store.info("d/0")
        assert info is not None and info.size_bytes == len(store.read("d/0")) == number


def test_an_etag_follows_the_content(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    store = open_store(f"s3://{bucket}/{tmp_path.name}", {"endpoint_url": s3_endpoint})
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        store.put_if_absent(name, data)
    one, same, other = (info.etag for info in store.list())
    assert one == same != other and one is not None and '"' not in one


def test_what_is_not_there(store: Store) -> None:
    store.put_if_absent("there", b"1")
    assert store.read_if_there("there") == b"1"
    assert store.read_if_there("nope") is None and store.read_if_there("no/such/folder") is None
    for act in (store.read, store.open):
        with pytest.raises(StorageError, match=rf"cannot (read|open) {store.root}/nope: "):
            act("nope")


def test_an_open_object_is_seekable(store: Store) -> None:
    data = bytes(range(256)) * 20
    store.put_if_absent("x/y", data)
    with store.open("x/y") as file:
        assert (file.size_bytes, file.seekable(), file.readable()) == (len(data), True, True)
        assert file.read(5) == data[:5] and file.tell() == 5
        assert file.seek(-10, io.SEEK_END) == len(data) - 10 and file.read() == data[-10:]
        assert file.read(1) == b""
        assert file.seek(300) == 300 and file.read(0) == b"" and file.read(3) == data[300:303]
        buffer = bytearray(7)
        assert file.readinto(buffer) == 7 and bytes(buffer) == data[303:310]
        assert file.seek(2, io.SEEK_CUR) == 312
    assert file.closed
    file.close()  # twice is once


ACTS: list[tuple[str, Callable[[Store], object]]] = [
    ("list", lambda store: list(store.list("d"))),
    ("list", lambda store: list(store.list("d", recursive=True))),
    ("look for", lambda store: store.info("d/x")),
    ("read", lambda store: store.read("d/x")),
    ("read", lambda store: store.read_if_there("d/x")),
    ("open", lambda store: store.open("d/x")),
    ("write", lambda store: store.put_if_absent("d/x", b"1")),
]


@pytest.mark.parametrize(("verb", "act"), ACTS)
def test_a_missing_bucket(s3_endpoint: str, verb: str, act: Callable[[Store], object]) -> None:
    """No empty listing may hide it."""
    store = open_store("s3://nobucket/root", {"endpoint_url": s3_endpoint})
    with pytest.raises(StorageError, match=rf"cannot {verb} s3://nobucket/root/d(/x)?: .*bucket does not exist"):
        act(store)


@pytest.mark.parametrize(("verb", "act"), ACTS)
def test_a_server_that_is_not_there(verb: str, act: Callable[[Store], object]) -> None:
    require_module("s3fs")
    store = open_store("s3://bucket/root", {"endpoint_url": "http://127.0.0.1:1", "retry_seconds": 0})
    with pytest.raises(
        StorageError, match=rf"cannot {verb} s3://bucket/root/d(/x)?: .*127\.0\.0\.1:1/bucket"
    ) as caught:
        act(store)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_no_error_holds_a_presigned_query() -> None:
    store = open_store("http://user:hunter2@127.0.0.1:1/root", {"retry_seconds": 0})
    assert "hunter2" not in store.root
    for act in (lambda path: list(store.list(path)), store.read, store.read_if_there, store.open):
        with pytest.raises(StorageError, match=r"127\.0\.0\.1:1/root/x: ") as caught:
            act("x?X-Amz-Signature=hunter2")
        assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s4://bucket/x", {}, "s4://bucket/x: this store cannot be opened: .*s4"),
        ("s3://bucket/x", {"endpoint_url": "localhost:9000"}, "endpoint_url: localhost:9000: expected http://"),
        ("s3://AKIA:secret@bucket/x", {}, "s3://bucket/x: credentials in a URL would end up in logs"),
        ("s3://bucket/x", {"endpoint_url": "http://"}, "endpoint_url: http://: expected http://"),
        ("s3://bucket/x", {"endpoint_url": "http://a?sig=x"}, "endpoint_url: http://a: expected http://"),
    ],
)
def test_a_store_that_cannot_be(url: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url, options)


def test_local_roots_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_store(str(tmp_path / "file"))
    for act in (store.read_if_there, store.read, store.open, lambda path: store.put_if_absent(path, b"")):
        with pytest.raises(StorageError, match=rf"{tmp_path}/file/x"):
            act("x")


def test_which_of_many_names_are_there(store: Store) -> None:
    """Names that begin alike, that lie far apart, that are not there, and others in between."""
    there = ["a-b.json", "a.json", "a~retry1.json", "k1.json", "k10.json", "k2.json", "z.json"]
    for name in there:
        store.put_if_absent(f"d/{name}", b"1")
    for asked in (there, ["a.json"], ["b.json"], [], ["a.json", "z.json"], ["0", "a.json", "k1.json", "zz"]):
        found = [info.path for info in store.present("d", asked)]
        assert found == [f"d/{name}" for name in asked if name in there]
    assert set(found) <= {f"d/{name}" for name in store.names("d")} and store.names("nothing") == frozenset()
    assert list(store.present("nothing", ["a"])) == []


def test_a_store_that_takes_no_start_after(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    store = open_store(f"s3://{bucket}/{tmp_path.name}", {"endpoint_url": s3_endpoint})
    there = [f"k{number:04d}" for number in range(1500)]
    for name in there:
        store.put_if_absent(f"d/{name}", b"1")
    real = store._filesystem.call_s3

    def call(*arguments: object, StartAfter: str = "", **options: object) -> object:
        return real(*arguments, **options)

    store._filesystem.call_s3 = call
    asked = [*there[400:900], "k1234x", *there[1300:]]
    assert [info.path for info in store.present("d", asked)] == [f"d/{name}" for name in asked if name in set(there)]


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(open_store(str(tmp_path / "a/b")))
    check_folder(open_store("memory://x"))
    asked = []
    monkeypatch.setattr(os, "access", lambda *question: asked.append(question))  # root may do anything
    with pytest.raises(ConfigError, match=f"output: {tmp_path}/a/b: {tmp_path} may not be written to"):
        check_folder(open_store(str(tmp_path / "a/b")))
    assert asked == [(str(tmp_path), os.W_OK | os.X_OK)] and list(tmp_path.iterdir()) == []
