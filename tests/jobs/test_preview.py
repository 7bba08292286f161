"""`vidtok preview`, and its page in a browser."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

import jobs.previewing
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import merge, pack_real_clips
from tests.media import gradient_frames, make_video, pack_tar
from vidtok_model import CARRIED

FSQ, KL = sorted(CARRIED)
JOB: dict[str, Any] = {"model": {"name": FSQ}, "clips": {"fps": 4, "size": 64}, "executor": {"kind": "inline"}}
HOSTILE = "<b>x</b> {{ 7 * 7 }}"


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(merge(merge(JOB, {"output": f"{tmp_path}/out"}), changes)))
        return path

    return write


def test_the_page_of_real_clips(vidtok: Cli, job_file: Any, tmp_path: Path, open_page: Any) -> None:
    shards = pack_real_clips(tmp_path / "in")
    page = tmp_path / "new" / "page.html"
    done = vidtok("preview", job_file(input={"shards": str(shards)}, model={"name": KL}), "-n", 3, "--out", page)
    assert done.code == 0 and str(page) in done.out, done.err
    assert not (tmp_path / "out").exists()
    opened = open_page(page)
    assert opened.title() == f"{KL}: preview" and "17 frames of 64 pixels" in opened.locator("#facts").inner_text()
    psnrs = [float(said.removesuffix(" dB")) for said in opened.locator(".psnr").all_inner_texts()]
    assert len(psnrs) == 3 and all(20 < psnr < 45 for psnr in psnrs), "which a small model reaches on real clips"
    mean = re.search(r"([\d.]+) dB, the mean of 3 clips", opened.locator("#facts").inner_text())
    assert mean is not None and float(mean[1]) == pytest.approx(sum(psnrs) / 3, abs=0.01)
    assert len(set(opened.locator("h2").all_inner_texts())) == 3, "a video each"
    for width in (400, 1400):
        opened.set_viewport_size({"width": width, "height": 900})
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = opened.eval_on_selector_all(
            "img", "all => all.map(one => [one.naturalWidth, one.naturalHeight, one.getBoundingClientRect().width])"
        )
        assert len(boxes) == 3 * 6 and all(box[:2] == [64, 128] and box[2] > 100 for box in boxes)
    colours = []
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        colours.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_the_pictures_are_the_clips(vidtok: Cli, job_file: Any, tmp_path: Path, open_page: Any) -> None:
    """The original above; each time the same clips."""
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", make_video(gradient_frames(22, 64, 64), fps=4))])
    job = job_file(input={"shards": f"{tmp_path}/in"}, clips={"fps": None})
    first, second = tmp_path / "1.html", tmp_path / "2.html"
    for page in (first, second):
        assert vidtok("preview", job, "-n", 1, "--out", page).code == 0
    assert first.read_text() == second.read_text()
    opened = open_page(first)
    figures = opened.locator("figure:not(.moving)")
    assert figures.count() == 5
    for number in range(5):
        figure = figures.nth(number)
        with av.open(io.BytesIO(_bytes_of(figure.locator("img").get_attribute("src")))) as container:
            pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
        seconds = float(figure.inner_text().removesuffix(" s"))
        assert pixels.shape == (128, 64, 3)
        assert pixels[:64].mean() == pytest.approx(gradient_frames(22)[round(seconds * 4)].mean(), abs=3)
        assert pixels[64:].mean() == pytest.approx(pixels[:64].mean(), abs=12)


def _bytes_of(url: str) -> bytes:
    return base64.b64decode(url.partition("base64,")[2])


def test_few_videos_give_several_clips_each(vidtok: Cli, job_file: Any, tmp_path: Path, open_page: Any) -> None:
    """And videos without rows are told of; nothing of a name is HTML."""
    good = make_video(gradient_frames(17 * 4, 64, 64))
    pack_tar(tmp_path / "in/0.tar", [(f"{HOSTILE}.mp4", good), ("bad.mp4", b"no video")])
    job = job_file(input={"shards": f"{tmp_path}/in"}, clips={"fps": None})
    assert vidtok("preview", job, "-n", 6, "--out", tmp_path / "p.html").code == 0
    opened = open_page(tmp_path / "p.html")
    assert opened.locator("h2").all_inner_texts()[:3] == [f"0.tar: {HOSTILE}"] * 3
    clips = [re.findall(r"clip (\d)", said)[0] for said in opened.locator("article .note").all_inner_texts()]
    assert clips == sorted(set(clips)) and len(clips) == 3
    assert "0.tar: bad: unreadable" in opened.locator("#rejects").inner_text()


def test_other_kinds_of_clips(vidtok: Cli, job_file: Any, tmp_path: Path, open_page: Any) -> None:
    """Pictures alone, streams, and inputs of which nothing becomes a clip."""
    picture = io.BytesIO()
    from PIL import Image

    Image.fromarray(gradient_frames(1, 80, 80)[0]).save(picture, "PNG")
    (tmp_path / "stills").mkdir()
    (tmp_path / "stills/a.png").write_bytes(picture.getvalue())
    still = job_file(input={"videos": f"{tmp_path}/stills/*.png"})
    assert vidtok("preview", still, "--out", tmp_path / "still.html").code == 0
    opened = open_page(tmp_path / "still.html")
    assert (opened.locator("article").count(), opened.locator(".moving").count(), opened.locator("img").count()) == (
        1, 0, 1,
    )  # fmt: skip
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", make_video(gradient_frames(40, 32, 32)))])
    stream = job_file(
        input={"shards": f"{tmp_path}/in"},
        model={"name": "vidtok_fsq_causal_488_32768_v1_1", "checkpoint": "random", "overrides": {"base_channels": 16}},
        clips={"mode": "stream", "segment_frames": 16, "fps": None, "size": 32},
    )
    assert vidtok("preview", stream, "--out", tmp_path / "stream.html").code == 0
    opened = open_page(tmp_path / "stream.html")
    assert opened.locator("article .note").all_inner_texts()[0].startswith("clip 0, from 0.00 to 1.30 s")
    pack_tar(tmp_path / "bad/0.tar", [("a.mp4", b"no video")])
    assert vidtok("preview", job_file(input={"shards": f"{tmp_path}/bad"}), "--out", tmp_path / "bad.html").code == 0
    assert open_page(tmp_path / "bad.html").locator("#empty").count() == 1


def test_it_opens_the_page_when_told(
    vidtok: Cli, job_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(jobs.previewing.webbrowser, "open", opened.append)
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", b"no video")])
    job, page = job_file(input={"shards": f"{tmp_path}/in"}), tmp_path / "p.html"
    assert vidtok("preview", job, "--out", page).code == 0 and opened == [], "no terminal"
    assert vidtok("preview", job, "--out", page, "--open").code == 0 and opened == [page.as_uri()]


def test_refused(vidtok: Cli, job_file: Any, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    done = vidtok("preview", job_file(input={"shards": f"{tmp_path}/none"}, clips={"size": 63}), "--out", page)
    assert done.code == 2 and "nothing matches" in done.err and "clips.size: 63" in done.err
    assert not page.exists()
    pack_tar(tmp_path / "in/0.tar", [("a.mp4", b"no video")])
    done = vidtok("preview", job_file(input={"shards": f"{tmp_path}/in"}), "--out", tmp_path)
    assert done.code == 2 and f"--out {tmp_path}: cannot be written" in done.err
