"""verify sees each kind of damage; gc takes what nobody names; rejects are tried again; all on a real small dataset."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.flow
from jobs.upkeep import retry_rejects
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.garbage import collect_garbage
from pipeline.job import run_job
from pipeline.rejected import outstanding_rejects
from pipeline.runs import announced
from pipeline.storage import open_store
from pipeline.verify import Verdict, verify_dataset
from tests.jobs_for_tests import dataset_rows, job
from tests.media import gradient_frames, make_video, pack_tar


@pytest.fixture(scope="module", params=["fsq", "kl"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input of two shards and a dataset of it."""
    folder = tmp_path_factory.mktemp("made")
    data = make_video(gradient_frames(20))
    for number in range(2):
        pack_tar(folder / f"in/{number}.tar", [("a.mp4", data), ("bad.mp4", b"no video"), ("b.mp4", data)])
    run_job(config_of(folder, request.param))
    return folder


def config_of(folder: Path, kind: str = "fsq") -> Any:
    name = {"fsq": "vidtok_fsq_causal_488_32768", "kl": "vidtok_kl_causal_488_4chn"}[kind]
    return job(folder / "in", folder / "out", clips={"fps": None, "size": 16}, model={"name": name})


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def check(folder: Path, **options: Any) -> Verdict:
    return verify_dataset(Dataset.open(open_store(str(folder / "out"))), **options)


def source(folder: Path) -> Any:
    return open_store(str(folder / "in"))


def test_a_whole_dataset_has_no_problem(made: Path) -> None:
    verdict = check(made, deep=True, source=source(made))
    assert verdict == Verdict(problems=[], shards=2, rows=8, uncommitted=0)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "out/data").iterdir())


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes rows of a part, with its footer kept, and makes the commit and the snapshots agree on its size."""
    with pq.ParquetFile(path) as file:
        table, footer = file.read(), file.metadata.metadata[b"vidtok"]
    table = change(table)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"vidtok": footer})
    before = path.stat().st_size
    pq.write_table(table, path)
    shutil.rmtree(path.parent.parent / "_snapshots", ignore_errors=True)
    for commit in (path.parent.parent / "_commits").iterdir():
        text = commit.read_text()
        if path.name in text:
            commit.write_text(text.replace(f'"size_bytes": {before}', f'"size_bytes": {path.stat().st_size}'))


def with_column(name: str, value: Callable[[pa.Table], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        return table.set_column(index, table.schema.field(name), pa.array(value(table), table.schema.field(name).type))

    return change


def edit_commit(folder: Path, **changes: Any) -> None:
    path = sorted((folder / "out/_commits").iterdir())[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    shutil.rmtree(folder / "out/_snapshots")


def payload(folder: Path) -> str:
    return "tokens" if "tokens" in pq.read_schema(parts(folder)[0]).names else "latents"


def spoil_payload(folder: Path) -> None:
    bad: Any = [40_000] * 5 * 4 if payload(folder) == "tokens" else b"\x00\x7c" * 4 * 5 * 4  # infinity
    rewrite(parts(folder)[0], with_column(payload(folder), lambda table: [bad] * table.num_rows))


def shorten_payload(folder: Path) -> None:
    bad: Any = [1, 2] if payload(folder) == "tokens" else b"\0\0"
    rewrite(parts(folder)[0], with_column(payload(folder), lambda table: [bad] * table.num_rows))


def double_ids(folder: Path) -> None:
    rewrite(parts(folder)[0], with_column("id", lambda table: ["same"] * table.num_rows))


def flip_a_byte(folder: Path) -> None:
    data = bytearray(parts(folder)[0].read_bytes())
    at = data.rfind(b'"attempt_id": "') + len(b'"attempt_id": "')
    data[at] = ord("0") if data[at] != ord("0") else ord("1")
    parts(folder)[0].write_bytes(data)


def swap_chain(folder: Path) -> None:
    """The second part begins where the first does not end."""
    second = parts(folder)[1]
    with pq.ParquetFile(second) as file:
        table, footer = file.read(), json.loads(file.metadata.metadata[b"vidtok"])
    footer["range"]["start"]["sample"] += 1
    before = second.stat().st_size
    pq.write_table(table.replace_schema_metadata({b"vidtok": json.dumps(footer).encode()}), second)
    commit = sorted((folder / "out/_commits").iterdir())[0]
    commit.write_text(commit.read_text().replace(f'"size_bytes": {before}', f'"size_bytes": {second.stat().st_size}'))
    shutil.rmtree(folder / "out/_snapshots")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: parts(folder)[1].unlink(), r"-p001\.parquet: bytes \(None: it is not there\): found None"),
    (lambda folder: parts(folder)[0].write_bytes(b"x"), r"-p000\.parquet: bytes .*: found 1, expected"),
    (lambda folder: next((folder / "out/rejects").iterdir()).unlink(), r"rejects/.*: found None"),
    (lambda folder: edit_commit(folder, rows=3), "rows of all parts: found 4, expected 3"),
    (lambda folder: edit_commit(folder, videos=9), "videos of all parts: found 3, expected 9"),
    (
        lambda folder: edit_commit(folder, rejects_by_class={"timeout": 1}),
        "rejects by class .*: found {'unreadable': 1}",
    ),
    (lambda folder: edit_commit(folder, fingerprint="x"), "commit: fingerprint: found x"),
    (spoil_payload, "tokens from 40000 to 40000, expected 0 to 32767|latents that are not finite: found 80"),
    (shorten_payload, r"tokens: found 2, expected 20|latents: found 1, expected 80"),
    (double_ids, "the id same stands in more than one row"),
    (swap_chain, r"-p001\.parquet: beginning \(a hole or an overlap in the chain\)"),
    (lambda folder: shutil.copy(parts(folder)[0], folder / "out/data/other-p000.parquet"), "no commit names it"),
    (lambda folder: (folder / "out/_commits/unknown.json").write_text("{}"), "a commit of no shard of the input"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_each_damage_is_seen(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    assert check(copy).problems == []
    damage(copy)
    problems = check(copy).problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_a_changed_byte_is_seen_when_looked_for(copy: Path) -> None:
    flip_a_byte(copy)
    assert check(copy).problems == []
    (problem,) = check(copy, deep=True).problems
    assert "p000.parquet: sha256: found" in problem


def test_a_video_that_the_dataset_does_not_know_is_seen(copy: Path) -> None:
    """As if it had been lost: the source has one more than rows and rejects account for."""
    tar = copy / "in/0.tar"
    size = tar.stat().st_size
    pack_tar(tar, [("a.mp4", make_video(gradient_frames(20))), ("bad.mp4", b"no video"), ("c.mp4", b"x" * 9000)])
    tar.write_bytes(tar.read_bytes()[:size].ljust(size, b"\0"))
    assert check(copy, source=source(copy)).problems == [
        "0.tar: 'c' has neither rows nor a reject",
        "0.tar: 'b' is not in the source, or has rows or rejects too often",
    ]


def test_gc_takes_what_nobody_names_and_only_when_told(copy: Path) -> None:
    dataset = Dataset.open(open_store(str(copy / "out")))
    shutil.copy(parts(copy)[0], copy / "out/data/other-p000.parquet")
    (copy / "out/_tmp/left").write_bytes(b"x")
    expected = ["data/other-p000.parquet", "_tmp/left"]
    assert [info.path for info in collect_garbage(dataset, remove=False)] == expected
    assert [info.path for info in collect_garbage(dataset, remove=True)] == expected
    assert list(collect_garbage(dataset, remove=True)) == [] and check(copy, deep=True).problems == []


def test_gc_and_a_live_run_exclude_each_other(copy: Path) -> None:
    dataset = Dataset.open(open_store(str(copy / "out")))
    shutil.copy(parts(copy)[0], copy / "out/data/other-p000.parquet")
    with announced(dataset.store, "tokenize"):
        with pytest.raises(ConfigError, match="a run of tokenize is alive"):
            list(collect_garbage(dataset, remove=True))
        assert check(copy).problems == [], "the run may own it"
    with announced(dataset.store, "gc"), pytest.raises(ConfigError, match="a run of gc is alive"):
        pack_tar(copy / "in/2.tar", [("a.mp4", b"")])
        kind = "kl" if payload(copy) == "latents" else "fsq"
        run_job(config_of(copy, kind), append=True)
    assert [info.path for info in collect_garbage(dataset, remove=False)] == ["data/other-p000.parquet"]


def test_rejects_are_tried_again_as_a_supplement(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed for a passing reason gets rows; what fails again is rejected again; commits stay."""
    config = config_of(copy, "kl" if payload(copy) == "latents" else "fsq")
    before = {path.name: path.read_bytes() for path in (copy / "out/_commits").iterdir()}
    result, videos = retry_rejects(config, ["timeout"], lambda _: None)
    assert (videos, result.commits) == (0, [])
    # The first shard's video can be read now; the second one's cannot.
    real = pipeline.flow.decode_video
    good = make_video(gradient_frames(20))

    def decode(video: Any, clips: Any, *, threads: int) -> Any:
        if video.ref.source_shard == "0.tar" and video.ref.key == "bad":
            video = dataclasses.replace(video, data=good)
        return real(video, clips, threads=threads)

    monkeypatch.setattr(pipeline.flow, "decode_video", decode)
    result, videos = retry_rejects(config, ["unreadable"], lambda _: None)
    assert videos == 2 and len(result.commits) == 2 and not result.failures
    after = {path.name: path.read_bytes() for path in (copy / "out/_commits").iterdir()}
    assert before.items() <= after.items() and len(after) == 4
    rows = dataset_rows(config)
    assert sorted(set(rows["source_key"].to_pylist())) == ["a", "b", "bad"] and rows.num_rows == 10
    dataset = Dataset.open(open_store(str(copy / "out")))
    (left,) = outstanding_rejects(dataset).values()
    assert [(row["source_shard"], row["source_key"]) for row in left.values()] == [("1.tar", "bad")]
    assert check(copy, deep=True, source=source(copy)).problems == []
    result, videos = retry_rejects(config, ["unreadable"], lambda _: None)
    assert videos == 1 and [commit["shard_id"].endswith("~retry2") for commit in result.commits] == [True]
    assert check(copy, deep=True, source=source(copy)).problems == []
