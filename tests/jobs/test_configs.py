"""The job files in jobs/configs: each plans a small stand-in of its input, which lies where the file says."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.job_file import load_job
from tests.jobs.conftest import Cli
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT

CONFIGS = ROOT / "jobs/configs"
SHORT, LONG = (make_video(gradient_frames(count, height=256, width=320), fps=8) for count in (20, 50))


def tars(*names: str) -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        data = pack_tar(Path(folder, "a.tar"), [("a.mp4", SHORT), ("a.txt", "A gradient.")]).read_bytes()
    return dict.fromkeys(names, data)


def pictures() -> Mapping[str, bytes]:
    data = io.BytesIO()
    Image.new("RGB", (320, 256), "teal").save(data, "JPEG")
    return {f"images/{folder}/{number}.jpg": data.getvalue() for folder in "ab" for number in range(3)}


def spans() -> Mapping[str, bytes]:
    columns = {"video_path": ["films/a.mp4"] * 2, "clip_id": ["one", "two"], "text": ["A gradient."] * 2}
    table = pa.table({**columns, "start": [0.0, 2.5], "end": [2.5, 5.0], "score": [0.5, 0.9]})
    data = io.BytesIO()
    pq.write_table(table, data)
    return {"clips.parquet": data.getvalue(), "films/a.mp4": LONG}


# What each file reads, and how many videos and rows that is, counted by hand: 20 frames at 8 a second are two clips of
# 17 where the rest is padded, and one where it is dropped; so are spans of 2.5 s; 50 frames are one segment.
STAND_INS: dict[str, tuple[Callable[[], Mapping[str, bytes]], int, int]] = {
    "laptop": (lambda: tars("shards/0.tar", "shards/1.tar"), 2, 4),
    "s3_tokens": (lambda: tars(*(f"shards/{number:03d}.tar" for number in range(128))), 128, 128),
    "long_latents": (lambda: {"films/a.mp4": LONG, "films/b.mp4": LONG}, 2, 2),
    "manifest_spans": (spans, 2, 4),
    "images": (pictures, 6, 6),
}


def test_each_file_has_a_stand_in() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(STAND_INS)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_job_file_plans_its_input(
    name: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vidtok: Cli
) -> None:
    make, videos, rows = STAND_INS[name]
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / f"{name}.yaml"
    raw = load_job(path)
    changes = {"model.checkpoint": "random"}
    client: Any = boto3.client("s3", endpoint_url=s3_endpoint)
    on_s3 = raw.output.startswith("s3://")
    if on_s3:
        client.create_bucket(Bucket="bucket")
        changes |= {"storage.input.endpoint_url": s3_endpoint, "storage.output.endpoint_url": s3_endpoint}
    for key, data in make().items():
        if on_s3:
            client.put_object(Bucket="bucket", Key=key, Body=data)
        else:
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(data)
    settings = [word for change in changes.items() for word in ("--set", "=".join(change))]
    done = vidtok("plan", path, "--json", "--videos", videos, *settings)
    assert done.code == 0, done.err
    found = json.loads(done.out)["estimate"]["quantities"]
    assert {name: found[name]["value"] for name in ("videos", "rows")} == {"videos": videos, "rows": rows}
    assert found["rejects"]["value"] == 0
