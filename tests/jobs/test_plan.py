"""`vidtok plan`, held against what the job then writes; all that keeps a job from starting, in one go."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

import jobs.planning
import pipeline.sampling
from pipeline.dataset import Dataset
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.job import run_job
from pipeline.job_file import load_job
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import SMALL_JOB, merge, pack_real_clips, real_clips, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.servers.process import free_port
from vidtok_model import CARRIED

FSQ, KL = sorted(CARRIED)
JOB: dict[str, Any] = {"model": {"name": FSQ}, "clips": {"fps": 4, "size": 64}, "executor": {"kind": "inline"}}


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job file for the tars in tmp_path/in, which would give tmp_path/out."""

    def write(changes: Mapping[str, Any] | None = None) -> Path:
        path = tmp_path / "job.yaml"
        raw = merge(JOB, {"input": {"shards": f"{tmp_path}/in"}, "output": f"{tmp_path}/out"})
        path.write_text(yaml.safe_dump(merge(raw, changes or {})))
        return path

    return write


def planned(vidtok: Cli, job: Path, *arguments: Any) -> dict[str, Any]:
    """What the plan says, of which nothing was written."""
    before = tree(job.parent)
    done = vidtok("plan", job, "--json", *arguments)
    assert done.code == 0, done.err
    assert tree(job.parent) == before, "it writes nothing"
    return json.loads(done.out)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def written(job: Path) -> dict[str, int]:
    """Runs the job; what its dataset holds."""
    config = load_job(job)
    assert not run_job(config).failures
    commits = list(Dataset.open(store_of(config)).commits())
    parts = [part for commit in commits for part in commit["parts"]]
    return {
        **{name: sum(commit[name] for commit in commits) for name in ("videos", "rows", "tokens")},
        "rejects": sum(sum(commit["rejects_by_class"].values()) for commit in commits),
        "bytes": sum(part["size_bytes"] for part in parts),
        "parts": len(parts),
    }


@pytest.mark.parametrize("model", [FSQ, KL])
def test_of_all_videos_it_is_what_the_job_writes(
    vidtok: Cli, job_file: Any, tmp_path: Path, shared_videos: Path, model: str
) -> None:
    pack_real_clips(tmp_path / "in")
    pack_tar(tmp_path / "in/bad.tar", [("a.mp4", b"no video"), ("b.mp4", b"none")])
    job = job_file({"model": {"name": model}})
    # How well tokens of a small model compress is found by making some; latents compress no better than by chance.
    estimate = planned(vidtok, job, *(("--measure",) if model == FSQ else ()))["estimate"]
    found = written(job)
    assert estimate["is_exact"] and not estimate["bytes_are_bound"]
    said = {name: quantity["value"] for name, quantity in estimate["quantities"].items()}
    for name in ("videos", "rows", "tokens", "rejects"):
        assert said[name] == found[name]
    assert estimate["parts"] == found["parts"] == 4
    assert said["bytes"] == pytest.approx(found["bytes"], rel=0.1)
    assert said["rejects: unreadable"] == 2 and estimate["examples"]["unreadable"].startswith("bad.tar, ")


def test_a_misfit_is_not_laid_to_the_weights(vidtok: Cli, job_file: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pack_tar(tmp_path / "in" / "0.tar", [("a.mp4", b"no video")])
    done = vidtok("plan", job_file({"clips": {"size": 66}, "executor": {"kind": "ray"}}))
    assert done.code == 2 and "clips.size: 66 is not a multiple of 8" in done.err
    assert "model.checkpoint" not in done.err


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 videos of two to five seconds, cut from the real clips and packed into four tars."""
    dice = np.random.default_rng(5)
    pieces: list[bytes] = []
    options = DecodeOptions(fps=8, size=64)
    for path in real_clips():
        with path.open("rb") as file:
            frames = np.stack([one.pixels_HWC for one in decode_frames(file, path.stat().st_size, options)])
        for _ in range(max(1, 48 // len(real_clips()) + 1)):
            count = int(min(len(frames), dice.integers(16, 41)))
            start = int(dice.integers(len(frames) - count + 1))
            pieces.append(make_video(frames[start : start + count], fps=8, crf=23))
    folder = tmp_path_factory.mktemp("cuts")
    order = dice.permutation(len(pieces))[:48]
    for shard in range(4):
        members: list[tuple[str, Any]] = []
        for number in order[shard * 12 : shard * 12 + 12]:
            members += [(f"{number:04d}.mp4", pieces[number]), (f"{number:04d}.txt", f"Piece {number}.")]
        pack_tar(folder / f"{shard}.tar", members)
    return folder


@pytest.mark.parametrize("model", [FSQ, KL])
def test_of_some_videos_it_is_near_what_the_job_writes(
    vidtok: Cli, job_file: Any, cuts: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn from all by their headers; and by bytes, as of a large input, where bitrates that differ tenfold tell."""
    job = job_file({"model": {"name": model}, "input": {"shards": str(cuts)}, "rows": {"part_bytes": 2**16}})
    found = [(0.1, planned(vidtok, job, "--videos", 28, *(("--measure",) if model == FSQ else ()))["estimate"])]
    monkeypatch.setattr(pipeline.sampling, "_SMALL_BYTES", 0)
    found.append((0.2, planned(vidtok, job, "--videos", 28)["estimate"]))
    real = written(job)
    for tolerance, estimate in found:
        assert not estimate["is_exact"] and 18 <= estimate["sampled"] <= 28
        for name in ("rows", "tokens", "bytes"):
            quantity = estimate["quantities"][name]
            if not estimate["bytes_are_bound"] or name != "bytes":
                assert quantity["value"] == pytest.approx(real[name], rel=tolerance), name
                assert quantity["low"] <= real[name] <= quantity["high"]
            assert quantity["low"] < quantity["value"] < quantity["high"]
        assert estimate["parts"] == pytest.approx(real["parts"], rel=0.25)


def small(tmp_path: Path, **changes: Any) -> Path:
    """A job of random weights over small videos."""
    path = tmp_path / "job.yaml"
    raw = merge(SMALL_JOB, {"clips": {"fps": None, "size": 32}, "output": f"{tmp_path}/out"})
    path.write_text(yaml.safe_dump(merge(raw, changes)))
    return path


def values(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: quantity["value"] for name, quantity in found["estimate"]["quantities"].items()}


def check(vidtok: Cli, job: Path, *arguments: Any) -> dict[str, Any]:
    """A plan of all videos, which the job then keeps to."""
    found = planned(vidtok, job, *arguments)
    real = written(job)
    assert found["estimate"]["is_exact"]
    assert {name: values(found)[name] for name in ("videos", "rows", "tokens", "rejects")} == {
        name: real[name] for name in ("videos", "rows", "tokens", "rejects")
    }
    assert found["estimate"]["parts"] == real["parts"]
    assert values(found)["bytes"] == pytest.approx(real["bytes"], rel=0.1)
    return found


@pytest.fixture(scope="module")
def video() -> bytes:
    return make_video(gradient_frames(40))


def test_every_kind_of_input(vidtok: Cli, tmp_path: Path, video: bytes) -> None:
    for number in range(3):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / f"files/{number}.mp4").write_bytes(video if number else b"no video")
    rows = [{"url": f"files/{n}.mp4", "start_seconds": begin} for n in range(4) for begin in (0, 2.0)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pack_tar(tmp_path / "gz/0.tar.gz", [("a.mp4", video), ("a.txt", "a"), ("b.mp4", b"none"), ("c.mp4", video)], "w:gz")
    # A sample of two videos, and one that the tar breaks off in.
    whole = pack_tar(tmp_path / "two/0.tar", [("a.left.mp4", video), ("a.right.mp4", video), ("b.mp4", video)])
    whole.write_bytes(whole.read_bytes()[: 3 * 512 + 2 * len(video) + 2000])
    pack_tar(tmp_path / "two/1.tar", [])
    for kind, where, videos, rejects in [
        ("videos", "files", 3, {"unreadable": 1}),
        ("manifests", "list.jsonl", 8, {"unreadable": 2, "missing": 2}),
        ("shards", "gz", 3, {"unreadable": 1}),
        ("shards", "two", 4, {"truncated": 1, "empty": 1}),
    ]:
        job = small(tmp_path, input={kind: f"{tmp_path}/{where}"}, output=f"{tmp_path}/out-{where}")
        said = values(check(vidtok, job))
        assert said["videos"] == videos
        found = {name.removeprefix("rejects: "): count for name, count in said.items() if name.startswith("rejects: ")}
        assert found == rejects, where


@pytest.mark.parametrize(
    "changes",
    [
        {"clips": {"num_frames": 5, "stride": 3, "tail": "drop"}},
        {"clips": {"scene_cuts": "split", "crop": "keep", "size": 16}, "rows": {"part_bytes": 500}},
        {"filters": {"min_seconds": 5.0}},
        {"limits": {"frames": 10}},
        {
            "model": {"name": "vidtok_kl_causal_488_4chn"},
            "rows": {"logvar": True},
        },
        {
            "model": {"name": "vidtok_fsq_causal_488_32768_v1_1"},
            "clips": {"mode": "stream", "segment_frames": 16},
            "executor": {"batch_size": 1},
        },
    ],
)
def test_rows_and_rejects_are_those_of_the_flow(
    vidtok: Cli, tmp_path: Path, video: bytes, changes: dict[str, Any]
) -> None:
    """Tails, scenes, filters, limits and streams count as they will; nothing stands for all that is rejected."""
    for number in range(2):
        videos = [(f"v{n}.mp4", video) for n in range(3)]
        pack_tar(tmp_path / f"in/{number}.tar", [*videos, ("short.mp4", make_video(gradient_frames(3)))])
    found = check(vidtok, small(tmp_path, input={"shards": f"{tmp_path}/in"}, **changes))
    if "filters" in changes:
        assert values(found)["rejects: filtered"] == 8 and values(found)["rows"] == 0
    done = vidtok("plan", small(tmp_path, input={"shards": f"{tmp_path}/in"}, output=f"{tmp_path}/other", **changes))
    assert done.code == 0 and "Memory of a worker" in done.out


def test_stills_alone(vidtok: Cli, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number, pixels in enumerate(gradient_frames(3)):
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png")
    job = small(tmp_path, input={"videos": f"{tmp_path}/in/*.png"})
    assert values(planned(vidtok, job))["rows"] == 3
    assert values(planned(vidtok, job, "--set", "clips.stills=reject"))["rejects: no_video"] == 3


def test_what_is_committed_is_left_out(vidtok: Cli, tmp_path: Path, video: bytes) -> None:
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", video)])
    job = small(tmp_path, input={"shards": f"{tmp_path}/in"})
    written(job)
    assert "Nothing to do: all 1 shards are committed" in vidtok("plan", job).out
    assert planned(vidtok, job) == {"shards": 1, "committed": 1}
    pack_tar(tmp_path / "in/1.tar", [("b.mp4", video), ("c.mp4", video)])
    assert vidtok("tokenize", job, "--append", "--set", "executor.max_attempts=1").code == 0
    commit = next((tmp_path / "out/_commits").glob("1-*"))
    commit.unlink()
    for snapshot in (tmp_path / "out/_snapshots").iterdir():
        snapshot.unlink()
    found = planned(vidtok, job)
    assert (found["shards"], found["committed"], values(found)["videos"]) == (2, 1, 2)


def test_a_budget_that_would_stop_the_job(vidtok: Cli, tmp_path: Path, video: bytes) -> None:
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", video), ("b.mp4", b"no video"), ("c.mp4", b"none")])
    job = small(tmp_path, input={"shards": str(tmp_path / "in")})
    told = "67% of the videos, where budget.share stops a job at 50%"
    assert told in vidtok("plan", job, "--set", "budget.least_videos=3").out
    assert told not in vidtok("plan", job).out, "of so few videos no share is looked at"


def test_gpu_hours_and_money(vidtok: Cli, tmp_path: Path, video: bytes) -> None:
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", video)])  # 40 frames: 3 clips
    job = small(tmp_path, input={"shards": f"{tmp_path}/in"})
    found = planned(vidtok, job, "--clips-per-second", 0.5, "--price", 3)
    assert found["gpu_hours"] == pytest.approx(3 / 0.5 / 3600) and found["cost"] == pytest.approx(3 * 6 / 3600)
    assert planned(vidtok, job)["gpu_hours"] is None
    shown = vidtok("plan", job, "--clips-per-second", 0.5, "--price", 3).out
    assert "GPU-hours" in shown and "at 3 a GPU-hour" in shown
    # What a CPU does is no GPU's speed.
    found = planned(vidtok, job, "--measure", "--price", 3)
    assert found["speed"]["clips"] == 2 and not found["speed"]["is_gpu"]
    assert found["gpu_hours"] is None and found["cost"] is None
    assert "unknown: what was measured is no GPU" in vidtok("plan", job, "--measure", "--price", 3).out
    done = vidtok("plan", job, "--price", 3)
    assert done.code == 2 and "--price: GPU-hours follow from" in done.err


def test_all_that_is_wrong_in_one_go(vidtok: Cli, tmp_path: Path, video: bytes) -> None:
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", video)])
    written(small(tmp_path, input={"shards": f"{tmp_path}/in"}))
    raw = {
        "input": {"shards": f"{tmp_path}/none/*.tar"},
        "output": f"{tmp_path}/out",
        "model": {"name": SMALL_JOB["model"]["name"], "checkpoint": f"{tmp_path}/none.ckpt"},
        "clips": {"size": 60, "num_frames": 15, "fsp": 8},
        "executor": {"address": f"127.0.0.1:{free_port()}", "batch_size": -2},
    }
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(raw))
    before = tree(tmp_path)
    done = vidtok("plan", job)
    assert done.code == 2 and done.out == "" and tree(tmp_path) == before
    for said in (
        "clips.fsp: there is no such key; did you mean fps?",
        "executor.batch_size: ",
        "clips.size: 60 is not a multiple of 8",
        "clips.num_frames:",
        "model.checkpoint: ",
        "none.ckpt: there is no such file",
        "no Ray cluster answers",
        f"output: {tmp_path}/out holds another dataset",
        "clips.size: the dataset has 32, the job wants 60",
    ):
        assert said in done.err, done.err
    assert "model.weights" not in done.err, "they are not known"
    job.write_text(yaml.safe_dump({**raw, "model": {"name": raw["model"]["name"]}, "output": f"{tmp_path}/new"}))
    done = vidtok("plan", job)
    assert done.code == 2 and "model.checkpoint: " in done.err and "nothing matches" in done.err
    job.write_text(yaml.safe_dump(raw))
    (tmp_path / "file").touch()
    done = vidtok("plan", job, "--set", f"output={tmp_path}/file/new")
    assert done.code == 2 and "nothing matches" in done.err and "none.ckpt" in done.err
    assert "Not a directory" in done.err


def test_stores_that_do_not_answer_or_refuse(
    vidtok: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str, bucket: str
) -> None:
    """Nobody listens, nobody answers, no such bucket, no such key: told of each side, in seconds."""

    def said(input_root: str, output: str, endpoint: str) -> str:
        stores = {side: {"endpoint_url": endpoint} for side in ("input", "output")}
        done = vidtok("plan", small(tmp_path, input={"shards": input_root}, output=output, storage=stores))
        assert done.code == 2 and done.out == ""
        return str(done.err)

    monkeypatch.setattr(jobs.planning, "_RETRY_SECONDS", 1)
    monkeypatch.setattr(jobs.planning, "_ANSWER_SECONDS", 1)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and answers nothing
        for port in (free_port(), server.getsockname()[1]):
            err = said("s3://one/in/", "s3://two/out", f"http://127.0.0.1:{port}")
            assert "cannot list s3://one/in" in err and "cannot read s3://two/out" in err
    assert time.monotonic() - began < 30
    err = said("s3://no-such-bucket/", "s3://none-either/out", s3_endpoint)
    assert "no-such-bucket" in err and "none-either" in err, err
    requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"0", timeout=10)  # from here on it looks at keys
    try:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key-wrong-key")
        err = said(f"s3://{bucket}/", f"s3://{bucket}/out", s3_endpoint)
    finally:
        requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"inf", timeout=10)
    assert err.count("PermissionError") == 2 and "wrong-key" not in err


def test_on_s3_nothing_is_written(vidtok: Cli, tmp_path: Path, s3_endpoint: str, bucket: str, video: bytes) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    body = pack_tar(tmp_path / "0.tar", [("a.mp4", video), ("b.mp4", video)]).read_bytes()
    client.put_object(Bucket=bucket, Key="plan-in/0.tar", Body=body)
    there = {"input": {"endpoint_url": s3_endpoint}, "output": {"endpoint_url": s3_endpoint}}
    root = f"s3://{bucket}"
    job = small(tmp_path, input={"shards": f"{root}/plan-in/"}, output=f"{root}/plan-out", storage=there)
    assert values(planned(vidtok, job))["rows"] == 6
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    assert [key for key in keys if key.startswith("plan-")] == ["plan-in/0.tar"]
