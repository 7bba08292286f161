"""A job file is checked as a whole, and each message says what to write instead."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import JobConfig
from pipeline.errors import ConfigError
from pipeline.job_file import load_job, parse_job
from tests.jobs_for_tests import SMALL_JOB, merge

MODEL = "vidtok_fsq_causal_488_32768"
KL_MODEL = {"name": "vidtok_kl_causal_488_4chn", "checkpoint": "random"}
BASE = merge(SMALL_JOB, {"input": {"shards": "/in"}, "output": "/out"})

# As a person first meets it in the documentation.
EXAMPLE = """
input: {shards: "data/{000..127}.tar"}
output: s3://bucket/tokens/kinetics
model: {name: vidtok_fsq_causal_488_32768, checkpoint: s3://bucket/vidtok_fsq_causal_488_32768.ckpt, dtype: fp32}
clips: {fps: 8, size: 256, crop: center, stride: null, tail: pad}
executor: {kind: ray, num_workers: 8, gpus_per_worker: 1, cpus_per_worker: 8}
storage: {input: {endpoint_url: "http://localhost:1", anon: false}, output: {}}
"""


def problems(**changes: Any) -> list[str]:
    """What is wrong with the small job after these changes."""
    with pytest.raises(ConfigError) as caught:
        parse_job(merge(BASE, changes))
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def test_a_whole_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(EXAMPLE)
    job = load_job(path)
    assert job.input.shards == str(Path.cwd() / "data/{000..127}.tar"), "workers may run in other folders"
    assert (job.output, job.model.name) == ("s3://bucket/tokens/kinetics", MODEL)
    assert job.model.checkpoint == "s3://bucket/vidtok_fsq_causal_488_32768.ckpt"
    assert (job.clips.fps, job.clips.size, job.clips.stride, job.clip_frames) == (8.0, 256, None, 17)
    assert (job.executor.num_workers, job.executor.gpus_per_worker, job.executor.threads) == (8, 1, 8)
    assert (job.storage.input.endpoint_url, job.storage.input.anon) == ("http://localhost:1", False)
    assert job.storage.output.endpoint_url is None


def test_all_problems_at_once() -> None:
    found = problems(
        clips={"fsp": 3, "size": -1, "tail": "cut"},
        executor={"num_worker": 4, "kind": "slurm"},
        model={"dtype": "int8"},
        storage={"input": {"endpoint": "x"}},
        outptu="x",
    )
    expected = {
        "clips.fsp: ": "did you mean fps?",
        "clips.size: ": "greater than 0 (found -1)",
        "clips.tail: ": "'pad' or 'drop' (found 'cut')",
        "executor.num_worker: ": "did you mean num_workers?",
        "executor.kind: ": "'ray' or 'inline' (found 'slurm')",
        "model.dtype: ": "'fp32', 'tf32', 'bf16' or 'fp16' (found 'int8')",
        "storage.input.endpoint: ": "did you mean endpoint_url?",
        "outptu: ": "did you mean output?",
    }
    assert len(found) == len(expected)
    for key, hint in expected.items():
        assert [hint in line for line in found if line.startswith(key)] == [True], (key, found)


def test_what_is_required_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job({"model": {}})
    assert caught.value.problems == ["input: is required", "output: is required", "model.name: is required"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": MODEL[:-1]}}, ["model: ", "unknown model", f"did you mean {MODEL}"]),
        ({"model": {"checkpoint": None}}, ["checkpoint: ", MODEL, ".safetensors"]),
        ({"model": {"checkpoint": "w.ckpt"}}, ["overrides", "checkpoint: random only"]),
        ({"model": {"overrides": {}, "seed": 3, "checkpoint": "w.ckpt"}}, ["seed", "checkpoint: random only"]),
        ({"model": {"overrides": {"base_chanels": 16}}}, ["base_chanels", "base_channels"]),
        ({"clips": {"every": 2}}, ["fps: 4.0 and every: 2 exclude each other"]),
        ({"clips": {"size": 100}}, ["clips.size: 100 is not a multiple of 8", MODEL]),
        ({"clips": {"num_frames": 18}}, ["clips.num_frames: ", "18", MODEL]),
        ({"clips": {"num_frames": 16}}, ["clips.num_frames: ", "gives back 13 of 16 frames", "k*4 + 1", MODEL]),
        ({"clips": {"stride": 18}}, ["clips.stride: 18 is above the clip's 17 frames"]),
        ({"clips": {"stride": 0}}, ["clips.stride: ", "greater than 0"]),
        ({"clips": {"fps": float("inf")}}, ["clips.fps: ", "finite"]),
        ({"executor": {"cpus_per_worker": float("inf")}}, ["executor.cpus_per_worker: ", "finite"]),
        ({"rows": {"logvar": True}}, ["rows.logvar: ", "FSQ"]),
        ({"rows": {"part_bytes": 2**28 + 1}}, ["rows.part_bytes: ", str(2**28)]),
        ({"input": {"shards": []}}, ["input.shards: "]),
        ({"output": ""}, ["output: "]),
    ],
)
def test_one_problem(changes: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems(**changes)
    assert [word for word in words if word not in problem] == [], problem


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"clips": {"stride": 17}}, 17),
        ({"clips": {"num_frames": 33, "stride": 33}}, 33),
        ({"model": {**KL_MODEL, "overrides": {}}, "rows": {"logvar": True}}, 17),
    ],
)
def test_what_just_fits_is_taken(changes: dict[str, Any], frames: int) -> None:
    assert parse_job(merge(BASE, changes)).clip_frames == frames


@pytest.mark.parametrize(
    "storage",
    [
        {"input": {"endpoint_url": "http://user:hunter2@host:9000"}},
        {"output": {"endpoint_url": "user:hunter2@host"}},
        {"input": {"endpoint_url": "http://user:a/hunter2@host"}},
        {"input": {"endpoint_url": ["http://user:hunter2@host"]}},
        {"output": {"endpoint_url": "https://host/?sig=hunter2"}},
        {"input": "http://user:hunter2@host"},
        "http://user:hunter2@host",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(storage: Any) -> None:
    (problem,) = problems(storage=storage)
    assert problem.startswith("storage") and "hunter2" not in problem and "user:" not in problem


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "https://host:9000/bucket/out",
            "https can only be read; expected a folder, s3://.*storage.output.endpoint_url",
        ),
        ("github://owner:repo@/out", "github can only be read"),
        ("memory://out", "memory has no conditional write, .*allow_single_writer: true"),
        ("simplecache::s3://bucket/out", "simplecache has no conditional write"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(output: str, message: str) -> None:
    (problem,) = problems(output=output)
    assert re.match(f"output: .*{message}", problem), problem
    alone = {"output": {"allow_single_writer": True}}
    if "can only be read" in message:
        assert re.match(f"output: .*{message}", *problems(output=output, storage=alone))
    else:
        assert parse_job(merge(BASE, {"output": output, "storage": alone})).output == output


@pytest.mark.parametrize(
    "output", ["out", "/tmp/out", "file:///tmp/out", "s3a://b/x", "gs://b/x", "az://b/x", "abfss://b/x"]
)
def test_outputs_that_can_be_written_are_taken(output: str) -> None:
    assert parse_job(merge(BASE, {"output": output})).output.endswith(output)


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("executor.num_workers=4", lambda job: job.executor.num_workers == 4),
        ("clips.fps=null", lambda job: job.clips.fps is None),
        ("clips.fps=2.5", lambda job: job.clips.fps == 2.5),
        ("input.shards=[/a, /b]", lambda job: job.input.shards == ["/a", "/b"]),
        ("storage.input.anon=true", lambda job: job.storage.input.anon is True),
        ("output=s3://b/x=y", lambda job: job.output == "s3://b/x=y"),
        (" model.overrides.base_channels = 32", lambda job: job.model.overrides == {"base_channels": 32}),
    ],
)
def test_set(job_file: Path, assignment: str, read: Any) -> None:
    assert read(load_job(job_file, [assignment]))


def test_set_again_wins_and_fills_an_empty_section(job_file: Path) -> None:
    job_file.write_text(job_file.read_text() + "rows:\n")
    assert load_job(job_file, ["rows.part_bytes=5", "rows.part_bytes=7"]).rows.part_bytes == 7


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("executor.num_workers", "--set executor.num_workers: expected key=value"),
        ("=4", "--set =4: expected key=value"),
        ("output.x=4", "--set output.x=4: output is '/out', which has no keys"),
        ("clips.fps=[", "--set clips.fps=[: '[' is not a YAML value"),
        ("clips.fps=2024-13-45", "'2024-13-45' is not a YAML value"),
        ("clips.fsp=4", "clips.fsp: there is no such key; did you mean fps?"),
        ("", "expected key=value"),
    ],
)
def test_set_refused(job_file: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(job_file, [assignment])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"a: b: c", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
        (b"output: 2024-13-45", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- 1", "expected a mapping with input, output and model, found list"),
        (b"", "found NoneType"),
        (b"1: 2", "1: Keys should be strings"),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value) or content == b"1: 2"


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in (schema, *schema["$defs"].values()):
        for name, field in section["properties"].items():
            reference = field.get("$ref", "").rpartition("/")[2]
            yield f"{section['title']}.{name}", {**schema["$defs"].get(reference, {}), **field}


def test_every_field_of_the_schema_is_described() -> None:
    schema = JobConfig.model_json_schema()
    json.dumps(schema)
    described = {name: field.get("description", "") for name, field in _fields(schema)}
    assert "StoreConfig.endpoint_url" in described and "JobConfig.input" in described
    assert [name for name, text in described.items() if len(text) < 10] == []


@pytest.mark.parametrize("shards", [5, [], ["a.tar", 5], {"a": "b"}])
def test_shards_of_another_type_are_one_line(shards: object) -> None:
    (problem,) = problems(input={"shards": shards})
    assert problem.startswith("input.shards: ")


@pytest.mark.parametrize(
    ("given", "found"),
    [({"shards": None}, "none"), ({"shards": "a.tar", "videos": "b"}, "shards and videos")],
)
def test_the_videos_are_given_in_one_way(given: dict[str, object], found: str) -> None:
    (problem,) = problems(input=given)
    assert problem == f"input: expected one of shards, videos and manifests, found {found}"


def test_a_rate_too_small_to_be_meant() -> None:
    (problem,) = problems(clips={"fps": 1e-9})
    assert problem.startswith("clips.fps: ")
