"""Log records as JSON: whole, one a line, without secrets, and each with what it is about."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline import logs
from pipeline.ahead import Ahead, Clock
from pipeline.listed_videos import read_listed_videos
from pipeline.logs import JsonFormatter, LogFormat, LogSettings, about, adopt_logger, identify, set_up_logs
from pipeline.records import Shard
from pipeline.video_lists import ListedVideo

log = logging.getLogger("pipeline.test")


class Written(io.StringIO):
    """What went to stderr."""

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().split("\n")[:-1]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Logging set up as a command with `--log-format json` does; afterwards all is as it was."""
    root, before = logging.getLogger(), (logging.getLogger().handlers[:], logging.getLogger().level)
    monkeypatch.setattr(logs, "_settings", LogSettings())
    monkeypatch.setattr(logs, "_identity", {})
    for variable in logs._RAY_LEAVES_LINES_ALONE:
        monkeypatch.setenv(variable, "as it was")
    stream = Written()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logs(LogSettings(format=LogFormat.JSON, level=logging.INFO))
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], root.level = before
    for package in logs._OURS:
        logging.getLogger(package).setLevel(logging.NOTSET)


def test_a_record_says_what_it_is_about(written: Written) -> None:
    identify(run="20260101T000000Z-0", worker="w1")
    with about(shard="0-abc"), about(video="a"):
        log.warning("one\nof %d", 2)
    log.info("none", extra={"shard": "1-abc"})
    log.debug("not wanted")
    first, second = written.records()
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(first.pop("time")) < timedelta(minutes=1)
    assert isinstance(first.pop("pid"), int) and first.pop("node")
    assert first == {
        "level": "WARNING",
        "logger": "pipeline.test",
        "message": "one\nof 2",
        "run": "20260101T000000Z-0",
        "worker": "w1",
        "shard": "0-abc",
        "video": "a",
    }
    assert (second["level"], second["shard"], second.get("video")) == ("INFO", "1-abc", None)


def test_no_secret_is_in_it_however_it_is_quoted(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    password, link = 'quoted"\\secret', "https://host/a?sig=planted"
    monkeypatch.setenv("SOME_PASSWORD", password)
    try:
        raise RuntimeError(f"{link} and {password}")
    except RuntimeError:
        log.exception("s3://user:planted@bucket", extra={"video": password})
    (record,) = written.records()
    assert "planted" not in written.getvalue() and "\\secret" not in written.getvalue()
    assert record["message"] == "s3://bucket" and record["video"] == "..."
    assert record["exception"].startswith("Traceback") and "RuntimeError: https://host/a and ..." in record["exception"]


def test_what_breaks_lines_elsewhere_breaks_none_here() -> None:
    record = logging.LogRecord("x", 30, "f", 1, "a\u2028b\x85\ud800", (), None)
    (line,) = JsonFormatter().format(record).splitlines()
    assert json.loads(line)["message"] == "a\u2028b\x85\ud800"


def test_others_speak_json_too(written: Written) -> None:
    other = logging.getLogger("some.library")
    other.handlers[:], other.propagate = [logging.StreamHandler()], False
    adopt_logger("some.library")
    other.warning("theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest has its own way with them since the fixture
        logging.captureWarnings(True)
        warnings.warn("and what Python warns of", stacklevel=1)
    first, second = written.records()
    assert first["message"] == "theirs" and "and what Python warns of" in second["message"]


def test_as_text_their_loggers_stay_theirs(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", written)  # which pytest put back since the fixture
    set_up_logs(LogSettings())
    other, theirs = logging.getLogger("some.other"), logging.StreamHandler()
    other.addHandler(theirs)
    adopt_logger("some.other")
    assert other.handlers == [theirs]
    log.warning("s3://user:planted@bucket")
    assert written.getvalue() == "s3://bucket\n"


def test_a_stage_in_a_thread_says_its_shard(written: Written) -> None:
    def stage() -> Iterator[int]:
        log.warning("from a thread")
        yield 1

    with (
        about(shard="0-abc"),
        Ahead(stage(), size_of=lambda _: 1, max_bytes=1, clock=Clock(), stages=("read", "decode")) as items,
    ):
        list(items)
    assert [record["shard"] for record in written.records()] == ["0-abc"]


def test_whatever_fetches_says_shard_and_video(written: Written) -> None:
    """In the threads that fetch listed videos ahead."""

    class Fetcher:
        def text(self, _: ListedVideo) -> dict[str, str]:
            return {}

        def video(self, listed: ListedVideo) -> bytes:
            log.warning("cannot read %s", listed.url)
            return b"data"

    listed = [ListedVideo(key=f"v{number}", occurrence=0, url=f"{number}.mp4") for number in range(6)]
    shard = Shard(shard_id="0-abc", path="0", size_bytes=0, etag=None)
    with about(shard=shard.shard_id):
        assert len(list(read_listed_videos(shard, listed, Fetcher(), start=shard.beginning))) == 6  # type: ignore[arg-type]
    said = {(record["shard"], record["video"], record["message"]) for record in written.records()}
    assert said == {("0-abc", f"v{number}", f"cannot read {number}.mp4") for number in range(6)}
