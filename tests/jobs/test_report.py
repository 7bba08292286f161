"""`vidtok report`: the page of a real dataset, as a browser shows it, and what it says where things are gone."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import jobs.report
from jobs.report_making import make_report
from pipeline.dataset import Dataset
from pipeline.job import run_job
from pipeline.job_file import parse_job
from pipeline.verify import verify_dataset
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import job, pack_real_clips, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.rows_for_tests import made_rows

TINY = "vidtok_tiny_fsq_causal_488_1073741824"
KL = {"name": "vidtok_kl_causal_488_4chn_v1_1"}
HOSTILE = "<script>alert(1)</script> $x$ {{ 7 * 7 }}"


def small_job(folder: Path, **changes: Any) -> Any:
    return job(folder / "in", folder / "out", **changes)


def tiny_job(folder: Path) -> Any:
    """With the weights that the package carries."""
    raw = {"input": {"shards": str(folder / "in")}, "output": str(folder / "out"), "model": {"name": TINY}}
    return parse_job({**raw, "clips": {"fps": 2, "size": 64}, "executor": {"kind": "inline", "batch_size": 2}})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real clips through a small trained model, with rejects."""
    folder = tmp_path_factory.mktemp("real")
    pack_real_clips(folder / "in")
    pack_tar(folder / "in/bad.tar", [(f"{HOSTILE}.mp4".replace("/", "_"), b"no video")])
    assert not run_job(tiny_job(folder)).failures
    return folder


@pytest.fixture(scope="module")
def page(real: Path) -> Path:
    make_report(str(real / "out"), {}, rows=4, most_seconds=300, page=real / "new" / "report.html")
    return real / "new" / "report.html"


@pytest.fixture
def shown(open_page: Callable[[Path], Any]) -> Iterator[Callable[..., Any]]:
    """A page at a width; nothing sticks out of it."""

    def show(page: Path, width: int = 1400, scheme: str = "light") -> Any:
        opened = open_page(page)
        opened.set_viewport_size({"width": width, "height": 900})
        opened.emulate_media(color_scheme=scheme)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        return opened

    yield show


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(shown: Callable[..., Any], page: Path, width: int, scheme: str) -> None:
    opened = shown(page, width, scheme)
    pictures = opened.eval_on_selector_all(
        "img",
        "all => all.map(one => [one.naturalWidth, one.naturalHeight, one.alt, one.clientWidth])",
    )
    assert len(pictures) == 4 * 3 and all(picture[:2] == [64, 128] for picture in pictures)
    assert all("original above reconstruction" in picture[2] and picture[3] > 60 for picture in pictures)
    plots = opened.eval_on_selector_all("svg", "all => all.map(one => one.getAttribute('aria-label'))")
    assert plots[:2] == ["clips a second over time", "shards committed over time"] and len(plots) == 4
    ink, paper = opened.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (_brightness(ink) < _brightness(paper)) == (scheme == "light")
    # Of a plot's axes and letters too.
    assert opened.evaluate("getComputedStyle(document.querySelector('svg path[style*=currentColor]')).stroke") == ink


def _brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_what_the_page_says(shown: Callable[..., Any], real: Path, page: Path) -> None:
    opened = shown(page)
    dataset = Dataset.open(store_of(tiny_job(real)))
    commits = list(dataset.commits())
    items = opened.eval_on_selector_all("#figures li", "all => all.map(one => one.innerText)")
    figures = {name: number for number, name in (item.split("\n") for item in items)}
    assert figures["shards committed"] == str(len(commits)) and figures["clips"] == str(sum(c["rows"] for c in commits))
    assert figures["tokens"] == f"{sum(commit['tokens'] for commit in commits):,}"
    quality = float(figures["PSNR of 4 sampled clips"].removesuffix(" dB"))
    assert 18 < quality < 45
    rejects = opened.locator("#rejects").inner_text()
    assert "unreadable" in rejects and HOSTILE.replace("/", "_") in rejects
    facts = opened.locator("#facts").inner_text()
    assert dataset.description["fingerprint"] in facts and "fps 2.0" in facts and "torch" in facts
    (run,) = json.loads(json.dumps([row.split("\t") for row in opened.locator("#runs").inner_text().splitlines()[1:]]))
    assert run[1] == "ended" and run[4] == str(len(commits))
    shares = opened.locator("#stages").inner_text()
    assert all(stage in shares for stage in ("read", "decode", "encode", "write"))
    assert opened.locator(".state").inner_text() == "complete"
    assert len(opened.locator("#slowest").inner_text().splitlines()) == 1 + len(commits)
    ids = {row for path in (real / "out/data").iterdir() for row in pq.read_table(path)["id"].to_pylist()}
    assert set(opened.eval_on_selector_all(".id", "all => all.map(one => one.innerText)")) < ids


def test_originals_and_weights_that_are_gone(shown: Callable[..., Any], real: Path, tmp_path: Path) -> None:
    shutil.copytree(real / "out", tmp_path / "out")
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    description["job"]["input"]["shards"] = str(tmp_path / "gone")
    (tmp_path / "out/dataset.json").write_text(json.dumps(description))
    make_report(str(tmp_path / "out"), {}, rows=1, most_seconds=300, page=tmp_path / "a.html")
    opened = shown(tmp_path / "a.html")
    assert opened.locator("img").count() == 3 and "reconstruction only" in opened.locator(".clip").inner_text()
    assert "The original of " in opened.locator("[data-note]").inner_text()
    make_report(
        str(tmp_path / "out"), {}, rows=1, most_seconds=300, page=tmp_path / "b.html", patterns=str(real / "in")
    )
    assert "dB" in shown(tmp_path / "b.html").locator(".clip").inner_text(), "where it has moved to"
    description["model"]["weights"] = "0" * 64
    (tmp_path / "out/dataset.json").write_text(json.dumps(description))
    make_report(str(tmp_path / "out"), {}, rows=1, most_seconds=300, page=tmp_path / "c.html")
    opened = shown(tmp_path / "c.html")
    assert opened.locator("img").count() == 0
    assert "There are no reconstructions: " in opened.locator("[data-note]").first.inner_text()


def test_streams_and_latents(shown: Callable[..., Any], tmp_path: Path) -> None:
    pack_tar(tmp_path / "in/0.tar", [(f"v{number}.mp4", make_video(gradient_frames(40))) for number in range(2)])
    clips = {"fps": None, "size": 16, "mode": "stream", "segment_frames": 16}
    assert not run_job(small_job(tmp_path, model=KL, clips=clips, executor={"batch_size": 1})).failures
    make_report(str(tmp_path / "out"), {}, rows=8, most_seconds=300, page=tmp_path / "report.html")
    opened = shown(tmp_path / "report.html", 400)
    assert opened.locator("img").count() == 2 * 3, "the first segment of each video"
    assert "dB" in opened.locator(".clip").first.inner_text() and opened.locator("#codes").count() == 0
    labels = opened.eval_on_selector_all("svg", "all => all.map(one => one.getAttribute('aria-label'))")
    assert "mean and standard deviation of each latent channel" in labels


def test_time_is_bounded(shown: Callable[..., Any], real: Path, tmp_path: Path) -> None:
    make_report(str(real / "out"), {}, rows=5, most_seconds=0, page=tmp_path / "report.html")
    opened = shown(tmp_path / "report.html")
    assert "After 0 s only 0 of 5 rows were looked at." in opened.locator("[data-note]").inner_text()


@pytest.mark.parametrize("parts", [0, 2])
def test_datasets_that_say_little(vidtok: Cli, tmp_path: Path, shown: Callable[..., Any], parts: int) -> None:
    """Without rows, runs, or a job; and before the first snapshot."""
    made_rows(tmp_path / "out", parts=parts)
    if not parts:
        shutil.rmtree(tmp_path / "out/_snapshots")
    done = vidtok("report", tmp_path / "out", "--out", tmp_path / "report.html", "--rows", 1)
    assert (done.code, done.out) == (0, f"The report is {tmp_path}/report.html\n")
    assert shown(tmp_path / "report.html", 400).locator(".state").inner_text() == "complete"


def test_refused(vidtok: Cli, tmp_path: Path) -> None:
    made_rows(tmp_path / "out")
    (tmp_path / "file").touch()
    for arguments, message in [
        ((tmp_path,), "there is no dataset"),
        ((tmp_path / "out", "--rows", 0, "--out", tmp_path / "file/x.html"), "x.html: cannot be written: "),
        ((tmp_path / "out", "--device", "none"), "--device none: "),
    ]:
        done = vidtok("report", *arguments)
        assert done.code == 2 and message in done.err, done.err


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", make_video(gradient_frames(20)))])
    config = small_job(tmp_path, clips={"fps": None, "size": 16})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path / "job.yaml"


def test_a_job_leaves_its_report(vidtok: Cli, job_file: Path, shown: Callable[..., Any]) -> None:
    """At the dataset's root, where nobody minds it."""
    root = job_file.parent / "out"
    done = vidtok("tokenize", job_file, "--report")
    assert done.code == 0 and f"The report is {root}/report.html\n" in done.err, done.err
    opened = shown(root / "report.html")
    assert opened.locator("img").count() == 2 * 3 and opened.locator(".state").inner_text() == "complete"
    assert verify_dataset(Dataset.open(store_of(small_job(job_file.parent)))).problems == []
    assert "nothing to remove" in vidtok("gc", root).out
    assert vidtok("merge", job_file.parent / "merged", root).code == 0
    again = vidtok("tokenize", job_file, "--report")
    assert again.code == 0 and "report" not in again.err, "nothing was committed"


def test_a_report_that_fails_is_only_told_of(vidtok: Cli, job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.report, "_PROGRAM", "import sys; print('x', file=sys.stderr); sys.exit('it broke')")
    done = vidtok("tokenize", job_file, "--report")
    assert done.code == 0 and "No report was made: x it broke\n" in done.err
    assert not (job_file.parent / "out/report.html").exists()


def test_a_report_that_takes_too_long_keeps_what_was_written(
    vidtok: Cli, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.report, "_PROGRAM", "import time; print('place', flush=True); time.sleep(600)")
    monkeypatch.setattr(jobs.report, "_MOST_SECONDS", 2.0)
    done = vidtok("tokenize", job_file, "--report")
    assert done.code == 0 and "The report is place, without reconstructions: it took more than 2 s\n" in done.err


def test_without_what_pages_are_made_with(vidtok: Cli, job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.report, "lacking_package", lambda extra: "jinja2")
    done = vidtok("tokenize", job_file, "--report")
    assert done.code == 0 and "pip install 'vidtok-pipeline[report]'" in done.err
