"""Nothing that is secret stands in what errors and log lines say; nothing else is taken out of them."""

import logging
import pickle

import pytest

from pipeline.errors import ConfigError, SampleError, StorageError
from pipeline.secrets import RedactingFormatter, redact, redact_url, storable
from tests.jobs_for_tests import job


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://host/a.ckpt?X-Amz-Signature=abc&x=/y?z", "https://host/a.ckpt"),
        ("HTTPS://host/a.ckpt?abc", "HTTPS://host/a.ckpt"),
        ("https://user:pass@host/a", "https://host/a"),
        ("https://user:p@ss@host/a", "https://host/a"),
        ("https://token@host/a", "https://host/a"),
        ("http://user:pa/ss@host/a", "http://host/a"),
        ("http://host:9000/bucket/who@where", "http://host:9000/bucket/who@where"),
        ("http://user:pass@host:9000/a?b", "http://host:9000/a"),
        ("simplecache::https://user:pass@host/a?b", "simplecache::https://host/a"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("s3://bucket/x?X-Amz-Signature=abc", "s3://bucket/x"),
        ("gs://bucket/x?X-Goog-Signature=abc", "gs://bucket/x"),
        ("folder/x.ckpt?X-Amz-Signature=abc", "folder/x.ckpt"),
        # And what is no secret:
        ("s3://bucket/00?.tar", "s3://bucket/00?.tar"),
        ("/data/00?.tar", "/data/00?.tar"),
        ("s3://bucket/who@where", "s3://bucket/who@where"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("s3://bucket/a=b/c.tar", "s3://bucket/a=b/c.tar"),
    ],
)
def test_urls(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


@pytest.mark.parametrize(
    ("said", "redacted"),
    [
        ('Invalid bucket name "AKIA:planted@corpus"', 'Invalid bucket name "corpus"'),
        ("GET /b/k?X-Amz-Signature=planted HTTP/1.1", "GET /b/k HTTP/1.1"),
        ("RequestInfo(url=URL('https://h/a?x=planted'))", "RequestInfo(url=URL('https://h/a'))"),
        ("--endpoint-url user:planted@127.0.0.1:1: expected", "--endpoint-url 127.0.0.1:1: expected"),
        ("no such key AKIAIOSFODNN7EXAMPLE", "no such key ..."),
        ("X-Amz-Credential=planted/2026, Signature=planted", "X-Amz-Credential=..., Signature=..."),
        ("clips.fps: 8 (found 3); is a=b right?", "clips.fps: 8 (found 3); is a=b right?"),
        ("decoding h264 fails: at 12:30:45 it said x@y", "decoding h264 fails: at 12:30:45 it said x@y"),
    ],
)
def test_messages(said: str, redacted: str) -> None:
    assert redact(said) == redacted


def test_the_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=x;AccountKey=Eby8vdM02==")
    monkeypatch.setenv("SOME_KEY", "short")
    monkeypatch.setenv("HARMLESS", "bigbuckbunny")
    text = "wJalrXUtnFEMI/K7MDENG and AccountName=x;AccountKey=Eby8vdM02== and short and bigbuckbunny"
    assert redact(text) == "... and ... and short and bigbuckbunny"


@pytest.mark.parametrize("kind", [StorageError, ConfigError, lambda text: SampleError("read", "unreadable", text)])
def test_errors_and_log_lines(kind: object) -> None:
    """However they are made, and where they cross to another process."""
    error = kind("cannot read https://user:planted@host/a?sig=planted")  # type: ignore[operator]
    assert "planted" not in str(error) and "host/a" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    try:
        raise RuntimeError("https://user:planted@host/a?sig=planted")
    except RuntimeError as caught:
        record = logging.LogRecord("x", 30, "f", 1, "%s", ("s3://a:planted@b",), (type(caught), caught, None))
    line = RedactingFormatter("%(message)s").format(record)
    assert "planted" not in line and "RuntimeError: https://host/a" in line and "s3://b" in line


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://user:pass@host/a?X-Amz-Signature=abc", "https://host/a"),
        ("s3://bucket/x?X-Amz-Signature=abc&X-Amz-Credential=b/c", "s3://bucket/x"),
        # Where an input lies must be found again by the next run.
        ("/data/p?/lang=en/*.tar", "/data/p?/lang=en/*.tar"),
        ("/data/token=en/x/", "/data/token=en/x/"),
        ("s3://bucket/secret=1/00?.tar", "s3://bucket/secret=1/00?.tar"),
        ("/data/hidden-in-a-key/x", "/data/hidden-in-a-key/x"),
    ],
)
def test_what_a_dataset_keeps(url: str, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "hidden-in-a-key")
    assert storable(url) == stored


@pytest.mark.parametrize(
    "output", ["s3://corpus/q1?X-Amz-Signature=planted&X-Amz-Credential=planted", "https://user:planted@host/out"]
)
def test_an_output_that_holds_a_secret_is_refused(output: str) -> None:
    """It would be the name of every object."""
    with pytest.raises(ConfigError, match="output: a user or a signature in it would end up in logs") as caught:
        job("/in", output)
    assert "planted" not in str(caught.value)
