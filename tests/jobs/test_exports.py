"""`vidtok export`: what it says, and how it ends."""

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Cli
from tests.rows_for_tests import made_rows
from tests.support import require_module


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    made_rows(tmp_path / "in", shards=2)
    return tmp_path / "in"


def test_megatron(vidtok: Cli, dataset: Path, tmp_path: Path) -> None:
    options = ("--offset", 32_000, "--order", "hwt", "--digits", "--no-frame-ends")
    ended = vidtok("export", "megatron", dataset, tmp_path / "clips", *options)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"Wrote 48 rows, 1,152 tokens, to {tmp_path}/clips.bin, .idx and .json\n"
    said = json.loads((tmp_path / "clips.json").read_text())["vocabulary"]
    expected = {"offset": 32_000, "order": "hwt", "digits": True, "frame_ends": False}
    assert {name: said[name] for name in expected} == expected
    ended = vidtok("export", "megatron", dataset, tmp_path / "clips")
    assert ended.code == 2 and "clips.idx: already there; choose another prefix, or --overwrite" in ended.err
    assert vidtok("export", "megatron", dataset, tmp_path / "clips", "--overwrite").code == 0


def test_webdataset(vidtok: Cli, dataset: Path, tmp_path: Path) -> None:
    ended = vidtok("export", "webdataset", dataset, tmp_path / "out", "--rows-per-shard", 20)
    assert (ended.code, ended.out) == (0, f"Wrote 48 rows, 1,152 tokens, to {tmp_path}/out\n")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3
    ended = vidtok("export", "webdataset", dataset, tmp_path / "other", "--split", "validation")
    assert ended.code == 2 and "split validation: 4 row groups of snapshot 1 are on neither side" in ended.err


def test_delta(vidtok: Cli, dataset: Path) -> None:
    require_module("deltalake")
    ended = vidtok("export", "delta", dataset)
    assert (ended.code, ended.out) == (0, "Version 0 of the Delta table adds 48 rows, 1,152 tokens\n")
    assert vidtok("export", "delta", dataset).out == "Version 0 of the Delta table has all rows: nothing to do\n"
