"""verify sees each kind of damage, on a real small dataset."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.job import run_job
from pipeline.parts import groups_bytes, opened_parquet
from pipeline.removal import remove_videos
from pipeline.rewriting import rewrite_parts, rewritten_bytes
from pipeline.verify import Verdict
from tests.made_dataset import check, config_of, dataset_of, pack_input, parts, source
from tests.media import gradient_frames, make_video, pack_tar


@pytest.fixture(scope="module", params=["fsq", "kl"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    pack_input(folder)
    run_job(config_of(folder, request.param))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_whole_dataset_has_no_problem(made: Path) -> None:
    verdict = check(made, deep=True, source=source(made))
    assert verdict == Verdict(problems=[], shards=2, rows=8, uncommitted=0)


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


def first_commit(folder: Path) -> Path:
    return sorted((folder / "out/_commits").iterdir())[0]


def edit_commit(folder: Path, *, keep_snapshots: bool = False, **changes: Any) -> None:
    path = first_commit(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if not keep_snapshots:
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


def edit_footer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Of the second part, and the commit agrees on its size."""
    second = parts(folder)[1]
    with pq.ParquetFile(second) as file:
        table, footer = file.read(), json.loads(file.metadata.metadata[b"vidtok"])
    change(footer)
    before = second.stat().st_size
    pq.write_table(table.replace_schema_metadata({b"vidtok": json.dumps(footer).encode()}), second)
    commit = first_commit(folder)
    commit.write_text(commit.read_text().replace(f'"size_bytes": {before}', f'"size_bytes": {second.stat().st_size}'))
    shutil.rmtree(folder / "out/_snapshots")


def edit_parts(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """As the first shard's commit names them."""
    named = json.loads(first_commit(folder).read_text())["parts"]
    change(named)
    edit_commit(folder, parts=named)


def other_rejects(folder: Path) -> None:
    """A file of the size that the commit says."""
    commit = json.loads(first_commit(folder).read_text())
    path = folder / "out" / commit["rejects"]["path"]
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(0, rows.schema.field(0), pa.array(["another.tar"])), path)
    edit_commit(folder, rejects=commit["rejects"] | {"size_bytes": path.stat().st_size})


def edit_plan(folder: Path) -> None:
    path = folder / "out/dataset.json"
    path.write_text(path.read_text().replace('"dtype": "fp32"', '"dtype": "bf16"', 1))


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
    (shorten_payload, r"tokens: found 2, expected 20|latents: found 2, expected 160"),
    (double_ids, "the id same stands in more than one row"),
    (
        lambda folder: edit_footer(folder, lambda footer: footer["range"]["start"].update(sample=9)),
        r"-p001\.parquet: beginning \(a hole or an overlap in the chain\)",
    ),
    (
        lambda folder: shutil.copy(parts(folder)[0], folder / "out/data/other-0123456789-p000.parquet"),
        "no commit names it, and none will; gc removes it",
    ),
    (lambda folder: (folder / "out/_commits/unknown.json").write_text("{}"), "a commit of no shard of the input"),
    (lambda folder: first_commit(folder).write_text("{"), "cannot be checked: CommitConflict"),
    (lambda folder: first_commit(folder).write_text('{"shard_id": 1}'), "cannot be checked"),
    (lambda folder: edit_commit(folder, source={"path": "x"}), "commit: source: found {'path': 'x'}, expected"),
    (lambda folder: edit_commit(folder, rejects=None), "1 rejects in the parts' footers, but the commit names None"),
    (lambda folder: edit_parts(folder, lambda named: named.reverse()), r"part 0: name: found .*-p001\.parquet"),
    (lambda folder: edit_parts(folder, lambda named: named[1].update(rows=7)), r"-p001\.parquet: rows: found 2"),
    (lambda folder: edit_parts(folder, lambda named: named[1].update(row_groups=[1])), r"-p001\.parquet: row groups"),
    (lambda folder: edit_parts(folder, lambda named: named[1].update(shapes=[])), r"-p001\.parquet: rows by shape"),
    (
        lambda folder: edit_footer(folder, lambda footer: footer.update(fingerprint="x")),
        r"-p001.*: fingerprint: found x",
    ),
    (lambda folder: edit_footer(folder, lambda footer: footer["source"].update(etag="x")), r"-p001.*: source: found"),
    (
        lambda folder: edit_footer(folder, lambda footer: footer.update(videos=5)),
        r"-p001.*: videos: found 2, expected 5",
    ),
    (other_rejects, "rejects/.*: other rejects than those of the parts' footers"),
    (edit_plan, "the fingerprint is not that of its plan"),
    # What a snapshot holds must be what stands in _commits/.
    (lambda folder: first_commit(folder).unlink(), "the snapshot has another commit of it"),
    (lambda folder: edit_commit(folder, keep_snapshots=True, tokens=1), "the snapshot has another commit of it"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_each_damage_is_seen(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    assert check(copy).problems == []
    damage(copy)
    problems = check(copy).problems
    assert any(re.search(message, problem) for problem in problems), problems


REMEDY = "no run writes again what is committed: put it back from a backup"


def test_each_lost_part_is_told_and_what_to_do(copy: Path) -> None:
    """Those behind it are looked at too, and what follows from its loss is not said as well."""
    lost = [parts(copy)[0], parts(copy)[2]]
    commits = sorted((copy / "out/_commits").iterdir())
    behind = parts(copy)[1]
    for path in lost:
        path.unlink()
    behind.write_bytes(behind.read_bytes()[:-1])
    (copy / "out" / json.loads(commits[0].read_text())["rejects"]["path"]).unlink()
    said = [line.split(": ", 1) for line in check(copy).problems]
    first, second = (json.loads(commit.read_text())["shard_id"] for commit in commits)
    assert [(shard_id, line.split(":")[0]) for shard_id, line in said] == [
        (first, f"data/{lost[0].name}"),
        (first, f"data/{behind.name}"),
        (first, f"rejects/{first}.parquet"),
        (first, "no run writes again what is committed"),
        (second, f"data/{lost[1].name}"),
        (second, "no run writes again what is committed"),
    ]
    assert said[3][1].endswith("or tokenize 0.tar into another output")


def test_a_part_with_a_damaged_page_is_told(copy: Path) -> None:
    """Its footer is whole, and its size is right."""
    first = parts(copy)[0]
    with pq.ParquetFile(first) as file:
        start = file.metadata.row_group(0).column(0).dictionary_page_offset
    data = bytearray(first.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    first.write_bytes(data)
    problem, remedy = check(copy).problems
    assert f"data/{first.name}: cannot be read: " in problem and REMEDY in remedy


SNAPSHOTS: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"garbage"),
    lambda path: path.write_bytes(path.read_bytes()[:-20]),
    lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),  # which no one can read
    lambda path: pq.write_table(pq.read_table(path).drop_columns("tokens"), path),
    # A snapshot's columns with nothing in them.
    lambda path: pq.write_table(pq.read_schema(path).empty_table().from_pylist([{}], pq.read_schema(path)), path),
]


@pytest.mark.parametrize("damage", SNAPSHOTS)
def test_a_damaged_snapshot_is_told_and_hides_nothing(copy: Path, damage: Callable[[Path], object]) -> None:
    (newest,) = (copy / "out/_snapshots").iterdir()
    shutil.copy(parts(copy)[0], copy / "out/data/mine.parquet")
    edit_commit(copy, keep_snapshots=True, videos=9)
    damage(newest)
    found = check(copy)
    told, counts, stray = found.problems
    assert told.startswith("the newest snapshot: ") and "without it the next run writes another" in told
    assert "videos of all parts: found 3, expected 9" in counts and stray.startswith("data/mine.parquet: no commit")
    assert found.shards == 2


def test_a_list_of_shards_that_is_lost_is_told(copy: Path) -> None:
    """Nobody reads the lists behind it."""
    for number in (1, 3, 4):
        shutil.copy(copy / "out/inputs/00000.parquet", copy / f"out/inputs/0000{number}.parquet")
    (problem,) = check(copy).problems
    assert problem.startswith("inputs/00002.parquet: is not there, though later lists are")
    (copy / "out/inputs/00001.parquet").unlink()
    assert [line.split(":")[0] for line in check(copy).problems] == ["inputs/00001.parquet", "inputs/00002.parquet"]


def test_a_changed_byte_is_seen_when_looked_for(copy: Path) -> None:
    flip_a_byte(copy)
    assert check(copy).problems == []
    problem, remedy = check(copy, deep=True).problems
    assert "p000.parquet: sha256: found" in problem and REMEDY in remedy


def test_a_shard_without_a_commit_is_not_accounted_for(copy: Path) -> None:
    first_commit(copy).unlink()
    shutil.rmtree(copy / "out/_snapshots")
    verdict = check(copy, source=source(copy))
    assert verdict.uncommitted == 1 and (verdict.shards, verdict.rows) == (1, 4)
    assert any("is not committed, so none of the videos of 0.tar is accounted for" in line for line in verdict.problems)


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


def removed_copy(folder: Path, *keys: str, erased: bool = True) -> Path:
    """The dataset without some videos of its first shard, and the first part, which had rows of them."""
    remove_videos(dataset_of(folder), keys, source_shard="0.tar")
    if erased:
        assert len(list(rewrite_parts(dataset_of(folder), remove=True))) == len(keys)
    return parts(folder)[0]


@pytest.mark.parametrize("erased", [False, True])
def test_a_removed_video_is_accounted_for(copy: Path, erased: bool) -> None:
    removed_copy(copy, "a", erased=erased)
    verdict = check(copy, deep=True, source=source(copy))
    assert verdict == Verdict(problems=[], shards=2, rows=8, uncommitted=0, removed=2)
    removed_copy(copy, "b", erased=erased)
    assert check(copy, deep=True, source=source(copy)).problems == [], "all of the shard"


def test_a_key_that_another_video_has_too_is_counted_by_videos(tmp_path: Path) -> None:
    data = make_video(gradient_frames(20))
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", data), ("b.mp4", data), ("a.mp4", b"no video")])
    run_job(config_of(tmp_path))
    removed_copy(tmp_path, "a")
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []


def edit_rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with opened_parquet(path.read_bytes()) as file:
        groups = [file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups)]
        footer = json.loads(file.metadata.metadata[b"vidtok"])
        schema = file.schema_arrow.remove_metadata()
    change(footer)
    tables = [group.replace_schema_metadata(None) for group in groups]
    path.write_bytes(groups_bytes(tables, schema, footer))


def drop_rows(path: Path) -> None:
    """A row more, of which the footer does not tell."""
    footer = json.loads(pq.read_metadata(path).metadata[b"vidtok"])
    table = pq.read_table(path).replace_schema_metadata(None)
    path.write_bytes(groups_bytes([table.slice(1)], table.schema, footer))


def drop_and_say_so(path: Path) -> None:
    path.write_bytes(rewritten_bytes(path.read_bytes(), {0: [1]}))


def damaged_pages(path: Path) -> Iterator[bytes]:
    """With one bit of the tokens or latents changed, of which most give other ones, as good as those before."""
    with pq.ParquetFile(path) as file:
        columns = file.metadata.row_group(0)
        chunk = columns.column(columns.num_columns - 1)
    end = chunk.data_page_offset + chunk.total_compressed_size
    for place in range(end - 40, end):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        yield bytes(data)


# Of the second part of the first shard, which holds b: its two rows are there, and nobody removed them.
LOSSES: list[tuple[Callable[[Path], object], str]] = [
    (drop_and_say_so, r"p001\.parquet: row group 0: rows \[1\] are gone, and nobody removed them"),
    (drop_rows, r"-p001\.parquet: bytes .*: found \d+, expected"),
    (lambda path: path.write_bytes(rewritten_bytes(path.read_bytes(), {})), "found no removed row, expected some"),
]


@pytest.mark.parametrize(("damage", "message"), LOSSES)
def test_a_part_that_lost_rows_that_nobody_removed_is_told(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    removed_copy(copy, "a")
    damage(parts(copy)[1])
    problems = check(copy, deep=True).problems
    assert any(re.search(message, problem) for problem in problems) and REMEDY in problems[-1]


# Of the first part, of which a's rows were removed: of two row groups of one row each, where b's would be.
TAMPERED: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: edit_rewritten(path, lambda said: said["rewritten"].update(row_groups=[3])), r"anew: found \[3\]"),
    (lambda path: edit_rewritten(path, lambda said: said["rewritten"].update(removed={"0": [0]})), "row groups: found"),
    (lambda path: edit_rewritten(path, lambda said: said["rewritten"].update(removed=[])), "cannot be checked"),
    (lambda path: edit_rewritten(path, lambda said: said.pop("rewritten")), r"p000\.parquet: bytes .*: found"),
    (lambda path: edit_rewritten(path, lambda said: said.update(videos=7)), "videos: found 1, expected 7"),
    (lambda path: edit_rewritten(path, lambda said: said.update(fingerprint="x")), "fingerprint: found x"),
]


@pytest.mark.parametrize(("damage", "message"), TAMPERED)
def test_a_part_that_was_written_anew_is_checked(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    path = removed_copy(copy, "a")
    assert check(copy, deep=True).problems == []
    damage(path)
    problems = check(copy, deep=True).problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_a_removal_that_is_lost_or_damaged_is_told(copy: Path) -> None:
    removed_copy(copy, "a")
    (file,) = (copy / "out/_removed").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-9])
    told, lost, *_ = check(copy).problems
    assert "_removed/00000001.parquet: is not a list of rows of ours" in told
    assert "rows [0, 1] are gone, and nobody removed them" in lost
    file.unlink()
    problems = check(copy, source=source(copy)).problems
    assert any("rows [0, 1] are gone, and nobody removed them" in problem for problem in problems)
    assert "0.tar: 'a' has neither rows nor a reject" in problems


def test_what_is_left_of_a_part_is_checked_row_by_row(tmp_path: Path) -> None:
    """Two videos of a part, of which one was removed: the other's page has a wrong bit, or a code too large."""
    pack_input(tmp_path)
    run_job(config_of(tmp_path, rows={"part_bytes": 10_000_000}))
    path = removed_copy(tmp_path, "a")
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []
    whole = path.read_bytes()
    for damaged in list(damaged_pages(path)):
        path.write_bytes(damaged)
        assert any("cannot be read: " in problem for problem in check(tmp_path).problems)
    path.write_bytes(whole)
    table = pq.read_table(path).replace_schema_metadata(None)
    footer = json.loads(pq.read_metadata(path).metadata[b"vidtok"])
    assert table.column("source_key").to_pylist() == ["b", "b"]
    table = with_column("tokens", lambda rows: [[40_000] * len(tokens) for tokens in rows["tokens"].to_pylist()])(table)
    path.write_bytes(groups_bytes([table], table.schema, footer))
    assert any("tokens from 40000 to 40000, expected 0 to 32767" in problem for problem in check(tmp_path).problems)
    path.write_bytes(whole)
    removed_copy(tmp_path, "b", erased=False)
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == [], "removed, and still there: counted once"
