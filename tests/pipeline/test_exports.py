"""Exports hold a dataset's rows in all values, by the formats' own readers, and a broken one looks whole to nobody."""

import importlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.exports import delta, megatron
from pipeline.exports.delta import export_delta
from pipeline.exports.megatron import export_megatron
from pipeline.exports.rows import Written
from pipeline.exports.webdataset import export_webdataset
from pipeline.parts import table_bytes
from pipeline.reading.vocabulary import Vocabulary
from pipeline.row_sets import REMOVED, SPLITS, add_rows
from pipeline.storage import open_store
from tests.rows_for_tests import GRID, made_rows
from tests.support import ROOT, require, require_module

SHAPES = (GRID, (1, 2, 2), (4, 1, 3))
KL_MODEL = "vidtok_kl_causal_488_4chn"
ROWS = 48  # of two shards
LEVELS = (8, 8, 8, 8)  # of the FSQ model that made rows are of


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A dataset of tokens in three shapes, with a part that no commit names, and rejects."""
    root = tmp_path / "tokens"
    made_rows(root, shards=2, grids=SHAPES)
    (root / "data/s9-0000000009-p000.parquet").write_bytes(parts(root)[0].read_bytes())
    (root / "rejects").mkdir()
    (root / "rejects/s0-0000000000.parquet").write_bytes(parts(root)[0].read_bytes())
    return root


def parts(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("data/*.parquet")) if not path.name.startswith("s9")]


def stored(root: Path) -> list[dict[str, Any]]:
    """The rows of all parts, by a reader that is not ours."""
    return [row for path in parts(root) for row in pq.read_table(path).to_pylist()]


def shape_of(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["latent_t"], row["latent_h"], row["latent_w"]


def written(rows: list[dict[str, Any]]) -> Written:
    return Written(len(rows), sum(int(np.prod(shape_of(row))) for row in rows))


def remove(root: Path, number: int, rows: list[int], folder: str = REMOVED) -> None:
    """Writes down rows of the first row group of a part."""
    add_rows(open_store(str(root)), folder, [((f"data/{parts(root)[number].name}", 0), rows)], {})


def rewrite(root: Path, number: int, rows: list[int]) -> None:
    """Writes a part of one row group anew without some rows, as `gc --rewrite` does."""
    path = parts(root)[number]
    table = pq.read_table(path)
    footer = {"rewritten": {"row_groups": [table.num_rows], "removed": {"0": rows}}}
    path.write_bytes(table_bytes(table.take(np.setdiff1d(np.arange(table.num_rows), rows)), footer))


# Megatron


def documents(prefix: Path) -> list[np.ndarray[Any, Any]]:
    """An indexed dataset read from its bytes alone."""
    index = Path(f"{prefix}.idx").read_bytes()
    magic, version, code, count, borders = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, borders) == (b"MMIDIDX\0\0", 1, count + 1)
    ids = np.fromfile(f"{prefix}.bin", {4: "<i4", 8: "<u2"}[code])
    lengths = np.frombuffer(index, "<i4", count, 34)
    pointers = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    assert np.frombuffer(index, "<i8", offset=34 + 12 * count).tolist() == list(range(count + 1))
    assert int(lengths.sum()) == len(ids), "the .bin has no more than its sequences"
    begins = (pointers // ids.itemsize).tolist()
    return [ids[begin : begin + length] for begin, length in zip(begins, lengths.tolist(), strict=True)]


def expected_ids(row: dict[str, Any], offset: int, order: str, digits: bool, frame_ends: bool) -> list[int]:
    """A clip's ids, written out slowly."""
    grid = np.array(row["tokens"]).reshape(shape_of(row)).transpose(*("thw".index(axis) for axis in order))
    bos = offset + (sum(LEVELS) if digits else 4096)
    ids = [bos]
    for plane in grid:
        for token in plane.ravel().tolist():
            places = np.unravel_index(token, LEVELS[::-1])[::-1]
            begins = np.cumsum([0, *LEVELS[:-1]])
            ids += [offset + int(b + p) for b, p in zip(begins, places, strict=True)] if digits else [offset + token]
        ids += [bos + 1] if frame_ends and order[0] == "t" else []
    return [*ids, bos + 2]


@pytest.fixture(scope="module")
def indexed_dataset() -> ModuleType:
    require("megatron", importlib.util.find_spec("megatron") is not None, "no module megatron")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels for GPUs, which are not there
        return importlib.import_module("megatron.core.datasets.indexed_dataset")


FORMS = [(0, "thw", False, True), (100_000, "hwt", False, True), (7, "twh", True, True), (50_000, "thw", False, False)]


@pytest.mark.parametrize(("offset", "order", "digits", "frame_ends"), FORMS)
def test_a_document_is_a_clip(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, offset: int, order: str, digits: bool, frame_ends: bool
) -> None:
    monkeypatch.setattr(megatron, "_AT_ONCE", 5)  # so that the index is written in several pieces
    given = {"offset": offset, "order": order, "digits": digits, "frame_ends": frame_ends}
    prefix = tokens.parent / "made" / "clips"
    rows = stored(tokens)
    assert len(rows) == ROWS and {shape_of(row) for row in rows} == set(SHAPES)
    assert export_megatron(str(tokens), str(prefix), vocabulary=given) == written(rows)
    found = documents(prefix)
    assert [ids.tolist() for ids in found] == [expected_ids(row, **given) for row in rows]
    assert found[0].dtype == (np.int32 if offset == 100_000 else np.uint16)
    said = json.loads(Path(f"{prefix}.json").read_text())
    words = Vocabulary(**said["vocabulary"])
    for ids, row in zip(found, rows, strict=True):
        assert words.decode(torch.tensor(ids.astype(np.int64)), shape_of(row)).ravel().tolist() == row["tokens"]
    assert {said["ids"]["bos"]} == {int(ids[0]) for ids in found}
    assert {said["ids"]["end_of_video"]} == {int(ids[-1]) for ids in found}
    description = json.loads((tokens / "dataset.json").read_text())
    assert said["fingerprint"] == description["fingerprint"] and said["model"] == description["model"]
    assert (said["snapshot"], said["rows"], said["split"]) == (1, ROWS, None)
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["clips.bin", "clips.idx", "clips.json"]


@pytest.mark.parametrize("offset", [0, 100_000])
def test_megatron_reads_it(tokens: Path, tmp_path: Path, indexed_dataset: ModuleType, offset: int) -> None:
    export_megatron(str(tokens), str(tmp_path / "clips"), vocabulary={"offset": offset})
    read = indexed_dataset.IndexedDataset(str(tmp_path / "clips"))
    expected = [expected_ids(row, offset, "thw", False, True) for row in stored(tokens)]
    assert [read[number].tolist() for number in range(len(read))] == expected
    assert read.document_indices.tolist() == list(range(ROWS + 1))
    assert read.get(3, offset=2, length=4).tolist() == expected[3][2:6]


@pytest.mark.parametrize(("offset", "dtype"), [(61_399, np.uint16), (61_400, np.int32)])
def test_ids_are_as_wide_as_megatron_has_them(
    tokens: Path, tmp_path: Path, indexed_dataset: ModuleType, offset: int, dtype: type
) -> None:
    export_megatron(str(tokens), str(tmp_path / "clips"), vocabulary={"offset": offset})
    said = json.loads((tmp_path / "clips.json").read_text())
    assert said["vocabulary_size"] == offset + 4096 + 4
    assert documents(tmp_path / "clips")[0].dtype == dtype
    assert indexed_dataset.DType.optimal_dtype(said["vocabulary_size"]) == dtype


def test_megatron_is_for_tokens_alone(tmp_path: Path) -> None:
    made_rows(tmp_path / "in", shards=1, model=KL_MODEL)
    with pytest.raises(ConfigError, match=f"{KL_MODEL}, whose rows are latents"):
        export_megatron(str(tmp_path / "in"), str(tmp_path / "clips"))
    assert not list(tmp_path.glob("clips*"))


DYING = """
import os, signal
from pipeline.exports import megatron, webdataset
calls, real = [], {call}
def dying(*arguments):
    calls.append(0)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
{call} = dying
{export}
"""


def killed(call: str, count: int, export: str) -> None:
    """Runs an export in a process that dies when it does something for the n-th time."""
    code = DYING.format(call=call, count=count, export=export)
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == -signal.SIGKILL


@pytest.mark.parametrize(("call", "count"), [("megatron.Vocabulary.encode", 9), ("megatron.os.replace", 2)])
def test_a_killed_megatron_export_has_no_index(tokens: Path, call: str, count: int) -> None:
    prefix = tokens.parent / "made" / "clips"
    export_megatron(str(tokens), str(prefix), vocabulary={"offset": 9})
    before = documents(prefix)
    export = f"megatron.export_megatron({str(tokens)!r}, {str(prefix)!r}, overwrite=True)"
    killed(call, count, export)
    if "replace" in call:  # between the names of the new files: they would not fit the old index
        assert not Path(f"{prefix}.idx").exists()
    else:
        assert all(map(np.array_equal, documents(prefix), before)), "the old one stands until the new one is whole"
    export_megatron(str(tokens), str(prefix), overwrite=True)
    assert documents(prefix)[0].tolist() == expected_ids(stored(tokens)[0], 0, "thw", False, True)
    left = sorted(path.name for path in prefix.parent.iterdir())
    assert left == ["clips.bin", "clips.idx", "clips.json"], "nor does what the killed one had written stay"


def test_a_broken_part_leaves_nothing(tokens: Path) -> None:
    parts(tokens)[-1].write_bytes(b"PAR1 no part PAR1")
    prefix = tokens.parent / "made" / "clips"
    with pytest.raises(StorageError, match=parts(tokens)[-1].name):
        export_megatron(str(tokens), str(prefix))
    assert not list(prefix.parent.glob("**/*"))


# WebDataset


def samples(folder: Path) -> list[dict[str, Any]]:
    said = json.loads((folder / "export.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves it to Python to close a tar
        return list(webdataset.WebDataset(str(folder / said["shards"]), shardshuffle=False))


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize(
    ("options", "payloads"),
    [
        ({}, ["tokens"]),
        ({"model": KL_MODEL}, ["latents"]),
        ({"model": KL_MODEL, "logvar": True}, ["latents", "logvar"]),
    ],
)
def test_a_sample_is_a_row(tmp_path: Path, options: dict[str, Any], payloads: list[str], captions: bool) -> None:
    made_rows(tmp_path / "in", shards=2, grids=SHAPES, captions=captions, **options)
    rows = stored(tmp_path / "in")
    assert export_webdataset(str(tmp_path / "in"), str(tmp_path / "out"), rows_per_shard=10) == written(rows)
    found = samples(tmp_path / "out")
    assert [sample["__key__"] for sample in found] == [row["id"] for row in rows]
    for sample, row in zip(found, rows, strict=True):
        for name in payloads:
            values = np.load(io.BytesIO(sample[f"{name}.npy"]))
            kind = np.int32 if name == "tokens" else np.float16
            assert values.dtype == kind and values.shape == ((4,) if name != "tokens" else ()) + shape_of(row)
            assert values.tobytes() == (np.array(row[name], kind).tobytes() if name == "tokens" else row[name])
        assert sample.get("txt", b"").decode() == (row["caption"] or "") and ("txt" in sample) == captions
        others = json.loads(sample["json"])
        assert others == {name: row[name] for name in row if name not in ("id", "caption", *payloads)}
        members = {"json", *(f"{name}.npy" for name in payloads), *(["txt"] if captions else [])}
        assert {name for name in sample if not name.startswith("__")} == members
    counts = Counter(Path(sample["__url__"]).name for sample in found)
    assert counts == {f"00000{number}.tar": 10 for number in range(4)} | {"000004.tar": 8}


def test_equal_rows_give_equal_tars(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_webdataset(str(tokens), str(tmp_path / "a"))
    monkeypatch.setattr("time.time", lambda: 1e9)
    export_webdataset(str(tokens), str(tmp_path / "b"))
    first, second = ((tmp_path / name / "000000.tar").read_bytes() for name in "ab")
    assert first == second
    with tarfile.open(tmp_path / "a/000000.tar") as tar:
        assert {(member.uname, member.uid, member.mtime) for member in tar} == {("vidtok", 0, 0)}


def test_tars_go_to_any_store(tokens: Path, tmp_path: Path, s3_endpoint: str, bucket: str) -> None:
    options, url = {"endpoint_url": s3_endpoint}, f"s3://{bucket}/{tmp_path.name}"
    export_webdataset(str(tokens), url, rows_per_shard=30, target_storage=options)
    export_webdataset(str(tokens), str(tmp_path / "out"), rows_per_shard=30)
    store = open_store(url, options)
    assert [info.path for info in store.list()] == ["000000.tar", "000001.tar", "export.json"]
    for info in store.list():
        assert store.read(info.path) == (tmp_path / "out" / info.path).read_bytes()


def test_a_killed_webdataset_export_is_not_taken_for_a_whole_one(tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_webdataset(str(tokens), str(out), rows_per_shard=5)
    export = f"webdataset.export_webdataset({str(tokens)!r}, {str(out)!r}, rows_per_shard=10, overwrite=True)"
    killed("webdataset.Store.put", 3, export)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["000000.tar", "000001.tar"]
    with pytest.raises(ConfigError, match=r"000000\.tar is already there"):
        export_webdataset(str(tokens), str(out))
    export_webdataset(str(tokens), str(out), rows_per_shard=48, overwrite=True)
    assert len(samples(out)) == ROWS and not (out / "000001.tar").exists()


# Both


@pytest.mark.parametrize("side", ["train", "validation"])
def test_a_split_s_side(tokens: Path, tmp_path: Path, side: str) -> None:
    for number in range(4):
        remove(tokens, number, [number, 7], SPLITS)
    remove(tokens, 1, [7, 8])
    validation = {0: [0, 7], 1: [1], 2: [2, 7], 3: [3, 7]}
    if side == "train":
        validation = {number: [row for row in range(12) if row not in (number, 7)] for number in range(4)}
        validation[1].remove(8)
    ids = [stored(tokens)[12 * number + row]["id"] for number in range(4) for row in validation[number]]
    export_webdataset(str(tokens), str(tmp_path / "out"), split=side)
    assert [sample["__key__"] for sample in samples(tmp_path / "out")] == ids
    export_megatron(str(tokens), str(tmp_path / "clips"), split=side)
    rows = {row["id"]: row for row in stored(tokens)}
    expected = [expected_ids(rows[row_id], 0, "thw", False, True) for row_id in ids]
    assert [found.tolist() for found in documents(tmp_path / "clips")] == expected
    assert json.loads((tmp_path / "clips.json").read_text())["split"] == side


def test_what_is_refused(tokens: Path, tmp_path: Path) -> None:
    root, prefix, out = str(tokens), str(tmp_path / "clips"), tmp_path / "out"
    with pytest.raises(ConfigError, match="order 'tt'"):
        export_megatron(root, prefix, vocabulary={"order": "tt"})
    with pytest.raises(ConfigError, match="id 2147483648: expected int32"):
        export_megatron(root, prefix, vocabulary={"offset": 2**31 - 4099})
    with pytest.raises(ConfigError, match="expected a local path"):
        export_megatron(root, "s3://bucket/clips")
    with pytest.raises(ConfigError, match="that ends with a name"):
        export_megatron(root, f"{tmp_path}/folder/")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(ConfigError, match="on neither side"):
        export_megatron(root, prefix, split="train")
    with pytest.raises(ConfigError, match="rows_per_shard 0"):
        export_webdataset(root, str(out), rows_per_shard=0)
    with pytest.raises(ConfigError, match="holds notes, which is of no export"):
        out.mkdir()
        (out / "notes").touch()
        export_webdataset(root, str(out), overwrite=True)
    assert os.listdir(out) == ["notes"] and not list(tmp_path.glob("clips*"))
    (tmp_path / "clips.bin").write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=r"clips\.bin: already there"):
        export_megatron(root, prefix)
    assert (tmp_path / "clips.bin").read_bytes() == b"somebody's"
    for number in range(4):
        remove(tokens, number, list(range(12)))
    with pytest.raises(ConfigError, match="snapshot 1 has no rows"):
        export_megatron(root, str(tmp_path / "other"))


# Delta


def delta_rows(root: Path, **options: Any) -> list[dict[str, Any]]:
    table = require_module("deltalake").DeltaTable(str(root), **options).to_pyarrow_table()
    return in_delta_s_order(table.to_pylist())


def log_of(root: Path, version: int) -> list[dict[str, Any]]:
    lines = (root / f"_delta_log/{version:020d}.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def dataset_of(root: Path) -> Dataset:
    return Dataset.open(open_store(str(root)))


def added(root: Path, version: int) -> list[tuple[str, int, int]]:
    """Path, size and number of rows of the files that a version adds, as its log says."""
    adds = [action["add"] for action in log_of(root, version) if "add" in action]
    return sorted((add["path"], add["size"], json.loads(add["stats"])["numRecords"]) for add in adds)


def in_delta_s_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["source_shard"], row["source_key"], row["clip_index"]))


@pytest.mark.parametrize("options", [{}, {"model": KL_MODEL, "logvar": True}])
def test_a_delta_table_is_the_committed_rows(tmp_path: Path, options: dict[str, Any]) -> None:
    require_module("deltalake")
    made_rows(tmp_path, shards=2, grids=SHAPES, **options)
    rows = stored(tmp_path)
    (tmp_path / "data/s9-0000000009-p000.parquet").write_bytes(parts(tmp_path)[0].read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert export_delta(str(tmp_path)) == delta.DeltaVersion(0, True, written(rows))
    assert delta_rows(tmp_path) == in_delta_s_order(rows)
    assert added(tmp_path, 0) == [(f"data/{path.name}", path.stat().st_size, 12) for path in parts(tmp_path)]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before, "no file is written anew"


def test_a_later_version_adds_what_is_new(tokens: Path) -> None:
    require_module("deltalake")
    export_delta(str(tokens))
    assert export_delta(str(tokens)) == delta.DeltaVersion(0, False, Written(0, 0))
    old = stored(tokens)
    made_rows(tokens, shards=1, first_shard=2, grids=SHAPES)
    new = stored(tokens)[ROWS:]
    assert len(new) == 24
    assert export_delta(str(tokens)) == delta.DeltaVersion(1, True, written(new))
    assert added(tokens, 1) == [(f"data/{path.name}", path.stat().st_size, 12) for path in parts(tokens)[4:]]
    assert delta_rows(tokens) == in_delta_s_order(old + new)
    assert delta_rows(tokens, version=0) == in_delta_s_order(old)
    assert export_delta(str(tokens)) == delta.DeltaVersion(1, False, Written(0, 0))
    assert [log_of(tokens, version)[0]["commitInfo"]["vidtok.snapshot"] for version in (0, 1)] == ["1", "2"]


def test_delta_s_vacuum_takes_nothing(tokens: Path) -> None:
    deltalake = require_module("deltalake")
    export_delta(str(tokens))
    for path in tokens.rglob("*"):
        os.utime(path, (1e9, 1e9))  # long before any retention that is the default
    table = deltalake.DeltaTable(str(tokens))
    assert table.vacuum(dry_run=True, full=True) == []
    with pytest.raises(deltalake.exceptions.DeltaError):
        table.delete()


def test_removed_rows_are_rewritten_first(tokens: Path) -> None:
    remove(tokens, 1, [2, 5])
    with pytest.raises(ConfigError, match=r"s0-0000000000-p001\.parquet: still holds 2 rows .* `vidtok gc --rewrite`"):
        delta._files(dataset_of(tokens))
    assert not (tokens / "_delta_log").exists()
    rewrite(tokens, 1, [2, 5])
    require_module("deltalake")
    rows = stored(tokens)
    assert len(rows) == ROWS - 2
    assert export_delta(str(tokens)) == delta.DeltaVersion(0, True, written(rows))
    assert delta_rows(tokens) == in_delta_s_order(rows)


def test_a_part_that_was_rewritten_takes_the_place_of_the_old_one(tokens: Path) -> None:
    require_module("deltalake")
    export_delta(str(tokens))
    for number, gone in ((0, [0]), (3, list(range(12)))):
        remove(tokens, number, gone)
        rewrite(tokens, number, gone)
    rows = stored(tokens)
    assert len(rows) == ROWS - 13
    assert export_delta(str(tokens)) == delta.DeltaVersion(1, True, written(rows[:11]))
    assert [(path[-12:], rows) for path, _, rows in added(tokens, 1)] == [("p000.parquet", 11), ("p001.parquet", 0)]
    assert delta_rows(tokens) == in_delta_s_order(rows)


def test_delta_names_what_the_snapshot_does(tokens: Path) -> None:
    """What goes into the log, without deltalake."""
    made_rows(tokens, shards=1, first_shard=2, grids=SHAPES)
    number, files = delta._files(dataset_of(tokens))
    assert number == 2
    assert [(file.path, file.size_bytes, file.rows) for file in files] == [
        (f"data/{path.name}", path.stat().st_size, pq.read_metadata(path).num_rows) for path in parts(tokens)
    ]
    assert Written(sum(file.rows for file in files), sum(file.tokens for file in files)) == written(stored(tokens))


def test_a_delta_table_on_s3(tmp_path: Path, s3_endpoint: str, bucket: str) -> None:
    require_module("deltalake")
    made_rows(tmp_path, shards=1)
    options, url = {"endpoint_url": s3_endpoint}, f"s3://{bucket}/delta-{tmp_path.name}"
    store = open_store(url, options)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(tmp_path)), path.read_bytes())
    # Not in this process, in which the server is: deltalake keeps others from Python while it waits for an answer.
    command = [sys.executable, "-m", "jobs.cli", "export", "delta", url, "--endpoint-url", s3_endpoint]
    ended = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "Version 0 of the Delta table adds 24 rows, 576 tokens\n"
    lines = store.read("_delta_log/00000000000000000000.json").decode().splitlines()
    paths = [action["add"]["path"] for action in map(json.loads, lines) if "add" in action]
    assert sorted(paths) == [f"data/{path.name}" for path in parts(tmp_path)]


def test_without_deltalake_it_says_what_to_install(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deltalake", "deltalake.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'vidtok-pipeline\[delta\]'"):
        export_delta(str(tokens))


def test_a_log_that_is_not_delta_s(tokens: Path) -> None:
    require_module("deltalake")
    (tokens / "_delta_log").mkdir()
    (tokens / "_delta_log/00000000000000000000.json").write_text("no JSON")
    with pytest.raises(StorageError, match=r"_delta_log: [^\x1b\n]*(?i:json)[^\x1b\n]*$"):
        export_delta(str(tokens))
