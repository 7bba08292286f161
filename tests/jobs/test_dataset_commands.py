"""The commands that take rows from a dataset, divide it and join it, and a part alone, as a person sees them."""

import re
import shutil
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset
from pipeline.job import run_job
from pipeline.runs import announced
from tests.jobs.conftest import Cli
from tests.made_dataset import config_of, dataset_of, pack_input, parts
from tests.rows_for_tests import made_rows, table_of


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    return made_rows(tmp_path / "out", shards=2)


def test_remove_and_erase(vidtok: Cli, made: Dataset, tmp_path: Path) -> None:
    root = made.store.root
    (tmp_path / "keys").write_text("v2\n\nnope\n")
    said = vidtok("remove", root, "--key", "v1", "--keys", tmp_path / "keys", "--dry-run")
    assert (said.code, said.out.splitlines()) == (
        0, ["'nope': no committed row has this source key", "12 rows of 4 videos: would be removed, without --dry-run"]
    )  # fmt: skip
    assert vidtok("gc", root, "--rewrite").out == "nothing to remove\n"
    assert "12 rows of 4 videos: removed;" in vidtok("remove", root, "--key", "v1", "--keys", tmp_path / "keys").out
    assert vidtok("remove", root, "--key", "v1").out.splitlines() == [
        "'v1': all its rows were removed before",
        "nothing to remove",
    ]
    assert "no problem in 48 rows (12 of them removed) of 2 committed shards" in vidtok("verify", root).out
    shown = vidtok("gc", root, "--rewrite").out.splitlines()
    assert shown[0].endswith("-p000.parquet  6 removed rows of 12")
    assert shown[2] == "12 rows in 2 parts: would be erased with --remove"
    assert len(shown) == 3, "and nothing of a Delta table, which is none"
    made.store.put("_delta_log/00000000000000000000.json", b"{}")
    with announced(made.store):
        erased = vidtok("gc", root, "--rewrite", "--remove").out
    assert "12 rows in 2 parts: erased" in erased, "also while a job runs"
    assert "readers fail until `vidtok export delta` runs" in erased
    assert vidtok("gc", root, "--rewrite", "--remove").out == "nothing to remove\n"
    assert "no problem in 48 rows (12 of them removed)" in vidtok("verify", root, "--deep").out
    shown = vidtok("inspect", root, "--rows", 99).out
    assert "48 in 4 parts" in shown and "12 of them removed" in shown
    ids = [row["id"] for row in table_of(made).to_pylist()]
    assert len(ids) == 36 == len(re.findall(r"\b[0-9a-f]{32}\b", shown)) and all(row_id in shown for row_id in ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes source keys: --key KEY, or --keys FILE"),
        (["--keys", "/no/such/file"], "--keys /no/such/file: cannot be read"),
        (["--key", "nope"], "'nope': no committed row of"),
        (["--key", "v1", "--shard", "7.tar"], "--shard 7.tar: nothing of it is committed"),
    ],
)
def test_remove_refused(vidtok: Cli, made: Dataset, arguments: list[str], message: str) -> None:
    done = vidtok("remove", made.store.root, *arguments)
    assert done.code == 2 and message in done.err


def test_a_part_that_is_gone_keeps_no_other_from_a_takedown(vidtok: Cli, made: Dataset) -> None:
    root = made.store.root
    gone, *others = sorted(made.parts())
    (Path(root) / gone).unlink()
    done = vidtok("remove", root, "--key", "v1")
    said = done.out.splitlines()
    assert done.code == 1 and f"not looked at: {root}/{gone}, row group 0: cannot be read" in said[0]
    assert said[1].startswith("3 rows of 1 videos: removed;")
    assert {path for path, _ in made.removed()} <= set(others)


def test_a_file_of_keys_from_an_editor(vidtok: Cli, made: Dataset, tmp_path: Path) -> None:
    """A byte order mark, and a key with what Unicode calls the end of a line."""
    (tmp_path / "keys").write_bytes("\ufeffv1\r\nodd\u2028key\r\n".encode())
    said = vidtok("remove", made.store.root, "--keys", tmp_path / "keys").out.splitlines()
    assert said[0] == r"'odd\u2028key': no committed row has this source key"
    assert said[1].startswith("6 rows of 2 videos: removed;")


def test_statistics_say_what_they_count_of_removed_videos(vidtok: Cli, made: Dataset) -> None:
    said = vidtok("stats", made.store.root, "--no-save").out
    assert "removed" not in said and "as committed" not in said
    vidtok("remove", made.store.root, "--key", "v1")
    said = vidtok("stats", made.store.root, "--no-save").out
    assert re.search(r"videos +16, with those that were removed", said) and "Sources, as committed" in said


def test_inspect_gives_no_removed_row(vidtok: Cli, made: Dataset) -> None:
    vidtok("remove", made.store.root, "--key", "v0")
    gone = [row["id"] for row in table_of(made).to_pylist() if row["source_key"] == "v0"]
    shown = vidtok("inspect", made.store.root, "--rows", 99).out
    assert len(re.findall(r"\b[0-9a-f]{32}\b", shown)) == 42 and not any(row_id in shown for row_id in gone)


def test_split(vidtok: Cli, made: Dataset) -> None:
    done = vidtok("split", made.store.root, "--validation", "0.3", "--seed", 4)
    train, validation, added = done.out.splitlines()
    numbers = [tuple(map(int, re.findall(r"\d+", line))) for line in (train, validation)]
    assert sum(rows for rows, _ in numbers) == 48 and sum(videos for _, videos in numbers) == 16
    assert all(rows == videos * 3 for rows, videos in numbers) and added == "4 row groups were divided just now"
    refused = vidtok("split", made.store.root, "--validation", "0.3")
    assert refused.code == 2 and "validation 0.3, seed 4: expected these, found validation 0.3, seed 0" in refused.err
    assert vidtok("split", made.store.root, "--validation", "0.3", "--seed", 4).out.splitlines()[:2] == [
        train,
        validation,
    ]


def test_merge(vidtok: Cli, made: Dataset, tmp_path: Path) -> None:
    other = made_rows(tmp_path / "other", shards=1, first_shard=2)
    roots = (made.store.root, other.store.root)
    assert vidtok("merge", tmp_path / "both", *roots).out == f"3 shards of 72 rows merged into {tmp_path}/both\n"
    assert "0 shards of 0 rows merged" in (again := vidtok("merge", tmp_path / "both", *roots)).out
    assert "3 were there already" in again.out
    assert "no problem in 72 rows of 3 committed shards" in vidtok("verify", tmp_path / "both", "--deep").out
    refused = vidtok("merge", tmp_path / "both", tmp_path / "nothing")
    assert refused.code == 2 and "there is no dataset" in refused.err


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    pack_input(folder)
    run_job(config_of(folder))
    return folder


def test_a_row_of_a_part_alone_is_decoded(vidtok: Cli, real: Path, tmp_path: Path) -> None:
    """Copied out of its dataset; the frames are those that the dataset gives."""
    part = shutil.copy(parts(real)[1], tmp_path / "lonely.parquet")
    row_id = pq.read_table(part).column("id")[1].as_py()
    frames = []
    for number, place in enumerate([part, real / "out"]):
        target = tmp_path / f"{number}.mp4"
        done = vidtok("decode", place, "--id", row_id, "--out", target)
        assert done.code == 0 and f"frames to {target}" in done.out, done.err
        with av.open(str(target)) as video:
            frames.append([frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)])
    assert frames[0] == frames[1] and len(frames[0]) >= 1
    for place, message in [(part, "has no row with the id 'nope'"), (tmp_path / "no.parquet", "no such part")]:
        refused = vidtok("decode", place, "--id", "nope", "--out", tmp_path / "x.mp4")
        assert refused.code == 2 and message in refused.err
    (tmp_path / "other.parquet").write_bytes(b"PAR1 is what it is not")
    refused = vidtok("decode", tmp_path / "other.parquet", "--id", "x", "--out", tmp_path / "x.mp4")
    assert refused.code == 2 and "other.parquet: is not a part of ours" in refused.err


def test_a_removed_row_is_not_decoded_from_its_part_either(vidtok: Cli, real: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(real, copy)
    part = parts(copy)[0]
    row_id = pq.read_table(part).column("id")[0].as_py()
    assert vidtok("remove", copy / "out", "--key", "a").code == 0
    for place in (part, copy / "out"):
        refused = vidtok("decode", place, "--id", row_id, "--out", tmp_path / "x.mp4")
        assert refused.code == 2 and row_id in refused.err and not (tmp_path / "x.mp4").exists()
    assert dataset_of(copy).find_row(pq.read_table(parts(copy)[1]).column("id")[0].as_py())
