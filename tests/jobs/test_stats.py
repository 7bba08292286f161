"""`vidtok stats`: its tables and JSON say what is in the dataset, and its page opens without anything beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import Cli
from tests.rows_for_tests import made_rows, rejected_videos

GRIDS = ((2, 3, 4), (3, 2, 2))
KL = "vidtok_kl_causal_488_4chn"
TINY = "vidtok_tiny_fsq_causal_488_1073741824"
HOSTILE = "<script>alert(1)</script> $x & _y.tar"


def cells(out: str, name: str) -> list[str]:
    """The cells of the table's row that begins with a name."""
    (row,) = (line for line in out.splitlines() if line.startswith(("│", name)) and name in line)
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_tables_of_tokens(vidtok: Cli, tmp_path: Path) -> None:
    dataset = made_rows(tmp_path, grids=GRIDS)
    rejected_videos(dataset, "x", ["timeout"])
    done = vidtok("stats", tmp_path)
    assert done.code == 0 and done.err == ""
    rows = [row for path in (tmp_path / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    tokens = np.concatenate([row["tokens"] for row in rows])
    codes, counts = np.unique(tokens, return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    assert cells(done.out, "used codes")[1] == f"{len(codes)} of 4,096 ({len(codes) / 4096:.2%})"
    assert cells(done.out, "dead codes")[1] == f"{4096 - len(codes):,}"
    assert cells(done.out, "entropy  ")[1] == f"{entropy:.3f} of 12.000 bits"
    assert cells(done.out, "most frequent code")[1] == f"{100 * shares.max():.3g}%"
    assert cells(done.out, "2x3x4") == ["2x3x4", "36"] and cells(done.out, "1.tar") == ["1.tar", "8", "24"]
    assert cells(done.out, "timeout") == ["timeout", "1"]
    assert cells(done.out, "tokens  ")[0].split() == ["tokens", f"{len(tokens):,}"]
    assert cells(done.out, "snapshot")[0].split() == ["snapshot", "2", "(4", "shards)"]
    highest = np.bincount(tokens // 512, minlength=8) / len(tokens)
    assert cells(done.out, "│ 3 ")[3:] == ["3.000", f"{highest.min():.2%}", f"{highest.max():.2%}"]


def test_tables_of_latents(vidtok: Cli, tmp_path: Path) -> None:
    made_rows(tmp_path, model=KL)
    done = vidtok("stats", tmp_path)
    rows = [row for path in (tmp_path / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    values_BCTN = np.stack([np.frombuffer(row["latents"], "<f2").astype(float).reshape(4, 2, 12) for row in rows])
    first, rest = values_BCTN[:, 2, 0], values_BCTN[:, 2, 1:]
    numbers = [f"{value:.4f}" for value in (first.mean(), first.std(), rest.mean(), rest.std())]
    assert cells(done.out, "│ 2  ") == ["2", *numbers]


def test_json_alone_is_what_is_saved(vidtok: Cli, tmp_path: Path) -> None:
    made_rows(tmp_path)
    done = vidtok("stats", tmp_path, "--json", "--threads", 2)
    said = json.loads(done.out)
    assert said == json.loads((tmp_path / "stats.json").read_text())
    assert (said["snapshot"], said["removals"], said["rows"]["rows"]) == (1, 0, 72)
    assert said["committed"]["videos"] == 24 and said["rows"]["shapes"] == [{"shape": [2, 3, 4], "rows": 72}]


def test_it_is_saved_unless_told_and_where_it_may_be(vidtok: Cli, tmp_path: Path) -> None:
    made_rows(tmp_path)
    assert vidtok("stats", tmp_path, "--no-save").code == 0 and not (tmp_path / "stats.json").exists()
    (tmp_path / "stats.json").mkdir()  # nothing can be written over it, also not by root
    done = vidtok("stats", tmp_path, "--json")
    assert done.code == 0 and json.loads(done.out)["rows"]["rows"] == 72
    assert done.err.startswith("stats.json is not written: cannot write")


def test_refused(vidtok: Cli, tmp_path: Path) -> None:
    made_rows(tmp_path / "dataset")
    (tmp_path / "file").touch()
    for arguments, message in [
        ((tmp_path / "none",), "there is no dataset"),
        ((tmp_path / "dataset", "--html", tmp_path), f"--html {tmp_path}: cannot be written: Is a directory"),
        ((tmp_path / "dataset", "--html", tmp_path / "file" / "x.html"), "x.html: cannot be written: "),
        ((tmp_path / "dataset", "--threads", 0), "--threads"),
    ]:
        done = vidtok("stats", *arguments)
        assert done.code == 2 and message in done.err, done.err
    assert not (tmp_path / "dataset" / "stats.json").exists()


def opened_page(open_page: Any, page: Path, *, plots: int) -> Any:
    """The page loads nothing from elsewhere, shows its plots, and has nothing to complain of."""
    opened = open_page(page)
    boxes = opened.eval_on_selector_all(
        "svg",
        "plots => plots.map(plot => plot.getBoundingClientRect()).map(box => [box.width, box.height, box.right])",
    )
    width = opened.evaluate("document.documentElement.clientWidth")
    assert len(boxes) == plots
    assert all(box[0] > 400 and box[1] > 80 and box[2] <= width for box in boxes)
    return opened


def test_the_page_of_tokens(vidtok: Cli, tmp_path: Path, open_page: Any) -> None:
    """Also of a source whose name is no HTML."""
    dataset = made_rows(tmp_path / "dataset", grids=GRIDS)
    rejected_videos(dataset, "x", ["timeout"], path=HOSTILE)
    page = tmp_path / "new" / "page.html"
    done = vidtok("stats", tmp_path / "dataset", "--html", page)
    assert done.code == 0 and str(page) in done.err
    opened = opened_page(open_page, page, plots=4)  # ranks, digits, shapes, rejects
    assert opened.title() == "vidtok_fsq_causal_488_4096: statistics"
    assert HOSTILE in opened.locator("#sources").inner_text()
    saved = json.loads((tmp_path / "dataset" / "stats.json").read_text())
    shown = dict(row.split("\t") for row in opened.locator("#codes").inner_text().splitlines())
    assert shown["perplexity"] == f"{saved['codes']['perplexity']:,.1f}"
    assert shown["dead codes"] == f"{saved['codes']['dead']:,}"


@pytest.mark.parametrize(("model", "plots"), [(KL, 2), (TINY, 3)])
def test_the_page_of_other_models(vidtok: Cli, tmp_path: Path, open_page: Any, model: str, plots: int) -> None:
    made_rows(tmp_path / "dataset", grids=GRIDS, model=model)
    assert vidtok("stats", tmp_path / "dataset", "--html", tmp_path / "page.html").code == 0
    opened = opened_page(open_page, tmp_path / "page.html", plots=plots)
    assert opened.locator("#codes").count() == (0 if model == KL else 1)


@pytest.mark.parametrize("model", [KL, TINY])
def test_without_rows(vidtok: Cli, tmp_path: Path, open_page: Any, model: str) -> None:
    made_rows(tmp_path / "dataset", parts=0, model=model)
    done = vidtok("stats", tmp_path / "dataset", "--html", tmp_path / "page.html")
    assert done.code == 0 and cells(done.out, "rows  ")[0].split() == ["rows", "0"]
    assert opened_page(open_page, tmp_path / "page.html", plots=0).locator("#empty").count() == 1


def test_latents_of_one_frame_alone(vidtok: Cli, tmp_path: Path) -> None:
    """There is no rest: its numbers are empty in JSON, and the page is made."""
    made_rows(tmp_path / "dataset", grids=((1, 2, 2),), model=KL)
    done = vidtok("stats", tmp_path / "dataset", "--json", "--html", tmp_path / "page.html")
    latents = json.loads(done.out, parse_constant=pytest.fail)["latents"]
    assert latents["first"]["count"] == 72 * 4 and latents["rest"] is None
