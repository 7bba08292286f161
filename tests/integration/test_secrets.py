"""Keys and presigned links appear nowhere: not in what is written, nor in what is said, when all goes well or badly."""

import http.server
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import save_file

from tests.integration.places import pack_small_shards
from tests.jobs_for_tests import SMALL_JOB, merge
from vidtok_model import MODELS, random_tokenizer

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key-000000000000000000002",
    "AWS_SESSION_TOKEN": "planted-session-token-3",
}
QUERY = "X-Amz-Signature=planted-signature-4&X-Amz-Credential=planted-credential-5"
SECRETS = [*PLANTED.values(), "planted-signature-4", "planted-credential-5"]


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[str]:
    """A presigned link to weights, on a server of this process."""
    folder = tmp_path / "weights"
    folder.mkdir()
    config = MODELS["vidtok_fsq_causal_488_32768"]
    save_file(random_tokenizer(config.replace(base_channels=128), seed=0).state_dict(), folder / "w.safetensors")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/w.safetensors?{QUERY}"
        server.shutdown()


def vidtok(tmp_path: Path, *arguments: str) -> str:
    """What the command says, all of it."""
    environment = {**os.environ, **PLANTED, "VIDTOK_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return f"exit {run.returncode}\n{run.stdout}{run.stderr}"


def test_no_secret_is_said_or_written(weights: str, s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    import boto3

    pack_small_shards(tmp_path / "in")
    root = f"s3://{bucket}/{tmp_path.name}-secrets"
    raw = merge(
        SMALL_JOB,
        {
            "input": {"shards": str(tmp_path / "in")},
            "output": root,
            "clips": {"fps": None, "size": 16},
            "storage": {"output": {"endpoint_url": s3_endpoint, "retry_seconds": 1}},
        },
    )
    raw["model"] = {"name": "vidtok_fsq_causal_488_32768", "checkpoint": weights}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(raw))
    said = [vidtok(tmp_path, "tokenize", str(job), "-v")]
    assert "exit 0" in said[0] and "Committed 2 of 2" in said[0], said[0]
    assert f"The report is {root}/report.html\n" in said[0], said[0]
    side = ("--endpoint-url", s3_endpoint)
    said += [vidtok(tmp_path, *command, root, *side) for command in (("inspect",), ("verify", "--source"), ("gc",))]
    # And when it goes badly: weights that are gone, a server that is not there, another dataset in the output.
    for wrong in (
        (f"model.checkpoint={weights.replace('w.safetensors', 'gone.safetensors')}",),
        ("storage.output.endpoint_url=http://127.0.0.1:1", "storage.output.retry_seconds=1"),
        ("clips.size=32",),
    ):
        said.append(
            vidtok(
                tmp_path,
                "tokenize",
                "--no-report",
                str(job),
                "-v",
                *(word for text in wrong for word in ("--set", text)),
            )
        )
        assert "exit 2" in said[-1], said[-1]
    for text in said:
        assert not [secret for secret in SECRETS if secret in text], text
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    objects = client.list_objects_v2(Bucket=bucket, Prefix=root.removeprefix(f"s3://{bucket}/"))["Contents"]
    assert len(objects) >= 14
    for item in objects:
        data = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        if item["Key"].endswith(".parquet"):  # which is compressed
            with pq.ParquetFile(io.BytesIO(data)) as file:
                data += repr((file.metadata.metadata, file.read().to_pylist())).encode()
        assert not [secret for secret in SECRETS if secret.encode() in data], item["Key"]
