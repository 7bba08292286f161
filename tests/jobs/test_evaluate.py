"""`vidtok evaluate`: the figures are those of the formulas, whatever the videos lie in, and the page opens."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from tests.jobs.conftest import Cli
from tests.media import gradient_frames, make_video, pack_tar
from tests.vidtok_model.support import golden_tokenizer
from vidtok_model import save_tokenizer
from vidtok_model.metrics import FrechetDistance, Lpips, load_lpips, ssim, video_features
from vidtok_model.preprocessing import prepare_frames
from vidtok_model.published import PUBLISHED_QUALITY

CLIPS, STREAM, TOKENS = "vidtok_kl_causal_488_4chn", "vidtok_kl_causal_288_8chn_v1_1", "vidtok_fsq_causal_488_4096"
SIZE = 32
HOSTILE = "<script>alert(1)</script> $x & _y"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {name: folder / f"{name}.safetensors" for name in (CLIPS, STREAM, TOKENS)}
    for name, path in paths.items():
        save_tokenizer(golden_tokenizer(name), path)
    return paths


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them at 60 frames a second, and what is none."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(3).integers(0, 255, (45, 48, 64, 3), dtype=np.uint8)
    (folder / "a.mp4").write_bytes(make_video(gradient_frames(40), fps=30))
    (folder / "sub").mkdir()
    (folder / "sub" / "b.mkv").write_bytes(make_video(noise, fps=60, container="matroska"))
    (folder / "none.mp4").write_bytes(b"no video")
    return folder


class Result:
    """What an evaluation wrote."""

    def __init__(self, folder: Path, out: str) -> None:
        self.out = out
        self.json = json.loads((folder / "evaluation.json").read_text())
        self.csv = list(csv.DictReader((folder / "videos.csv").read_text().splitlines()))
        self.page = folder / "index.html"

    def videos(self) -> dict[str, dict[str, Any]]:
        return {video["video"]: video for video in self.json["videos"]}


def evaluate(vidtok: Cli, folder: Path, *arguments: object) -> Result:
    done = vidtok("evaluate", "--out", folder, "--size", SIZE, *arguments)
    assert done.code == 0, done.err
    return Result(folder, done.out)


def taken(path: Path, every: int) -> torch.Tensor:
    """The frames of a video that are evaluated, as one clip (1, 3, T, SIZE, SIZE)."""
    data = path.read_bytes()
    frames = list(decode_frames(io.BytesIO(data), len(data), DecodeOptions(every=every, size=None)))
    return prepare_frames(torch.from_numpy(np.stack([frame.pixels_HWC for frame in frames])), SIZE)[None]


def clips_of(frames_BCTHW: torch.Tensor, length: int) -> list[torch.Tensor]:
    """Clips one behind the other, the last filled up with its last frame."""
    missing = -frames_BCTHW.shape[2] % length
    filled = torch.cat([frames_BCTHW, frames_BCTHW[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    return list(filled.split(length, dim=2))


def round_trips(name: str, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    tokenizer = golden_tokenizer(name)
    with torch.inference_mode():
        return [tokenizer.decode(tokenizer.encode(clip).latents, clip.shape[2]).clamp(-1, 1) for clip in clips]


def psnr_of(clip: torch.Tensor, decoded: torch.Tensor) -> float:
    """As torchmetrics has it: the mean over the frames."""
    frames, back = ((values[0].permute(1, 0, 2, 3) + 1) / 2 for values in (clip, decoded))
    return float(peak_signal_noise_ratio(back, frames, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean"))


@pytest.mark.parametrize("name", [CLIPS, TOKENS])
def test_figures_of_clips(vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path, name: str) -> None:
    result = evaluate(vidtok, tmp_path / "out", "--data", videos, "--checkpoint", checkpoints[name])
    found = result.videos()
    assert sorted(found) == ["a.mp4", "sub/b.mkv"]
    # 40 frames at 30 a second; every second one of 45 at 60.
    assert [(found[key]["frames"], found[key]["clips"]) for key in sorted(found)] == [(40, 3), (23, 2)]
    psnrs, ssims = [], []
    for key, every in (("a.mp4", 1), ("sub/b.mkv", 2)):
        clips = clips_of(taken(videos / key, every), 17)
        decoded = round_trips(name, clips)
        psnrs.append([psnr_of(*pair) for pair in zip(clips, decoded, strict=True)])
        ssims.append([float(ssim(*pair).mean()) for pair in zip(clips, decoded, strict=True)])
        assert found[key]["clip_means"]["psnr"] == pytest.approx(psnrs[-1], abs=1e-3)
        assert found[key]["clip_means"]["ssim"] == pytest.approx(ssims[-1], abs=1e-4)
        assert found[key]["psnr"] == pytest.approx(np.mean(psnrs[-1]), abs=1e-3)
    # Overall, each clip counts once, as published.
    assert result.json["overall"]["psnr"] == pytest.approx(np.mean(np.concatenate(psnrs)), abs=1e-3)
    assert result.json["overall"]["ssim"] == pytest.approx(np.mean(np.concatenate(ssims)), abs=1e-4)
    assert [(row["video"], float(row["psnr"])) for row in result.csv] == [
        (video["video"], pytest.approx(video["psnr"], abs=1e-6)) for video in result.json["videos"]
    ]
    (failed,) = result.json["failures"]
    assert failed["video"] == "none.mp4" and "no demuxer" in failed["reason"]


def test_figures_of_streams(vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    """A video is one stream, and counts once."""
    result = evaluate(vidtok, tmp_path / "out", "--data", videos, "--checkpoint", checkpoints[STREAM])
    expected = []
    for key, every in (("a.mp4", 1), ("sub/b.mkv", 2)):
        frames = taken(videos / key, every)
        encoder, decoder = golden_tokenizer(STREAM).stream_encoder(), golden_tokenizer(STREAM).stream_decoder()
        pieces = [piece for piece in (encoder.push(frames), encoder.finish()) if piece is not None]
        decoded = [decoder.push(piece.latents) for piece in pieces] + [decoder.finish()]
        back = torch.cat([piece for piece in decoded if piece is not None], dim=2)[:, :, : frames.shape[2]]
        expected.append(psnr_of(frames, back.clamp(-1, 1)))
        assert result.videos()[key]["psnr"] == pytest.approx(expected[-1], abs=1e-3)
        assert result.videos()[key]["clips"] == 1
    assert result.json["overall"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_tars_and_files_give_the_same(vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    members = [("a.mp4", (videos / "a.mp4").read_bytes()), ("b.mkv", (videos / "sub" / "b.mkv").read_bytes())]
    (tmp_path / "tars").mkdir()
    pack_tar(tmp_path / "tars" / "0.tar", members)
    arguments = ("--checkpoint", checkpoints[CLIPS], "--fps", 15)
    files = evaluate(vidtok, tmp_path / "files", "--data", f"{videos}/**/*.m*", *arguments)
    tars = evaluate(vidtok, tmp_path / "tar", "--data", tmp_path / "tars", *arguments)
    assert sorted(tars.videos()) == ["0.tar: a", "0.tar: b"]
    assert tars.videos()["0.tar: a"]["psnr"] == files.videos()["a.mp4"]["psnr"]
    assert tars.json["overall"]["psnr"] == pytest.approx(files.json["overall"]["psnr"])
    assert tars.videos()["0.tar: a"]["frames"] == 20 and tars.videos()["0.tar: b"]["frames"] == 12


def test_samples_follow_from_the_seed(vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    def psnr_with(*arguments: object) -> float:
        data = ("--data", videos / "a.mp4", "--checkpoint", checkpoints[CLIPS])
        return evaluate(vidtok, tmp_path / "out", *data, *arguments).json["overall"]["psnr"]

    means, first, again, other = (
        psnr_with(*arguments) for arguments in ((), ("--sample",), ("--sample",), ("--sample", "--seed", 7))
    )
    assert first == again and len({means, first, other}) == 3
    done = vidtok("evaluate", "--data", videos, "--checkpoint", checkpoints[TOKENS], "--size", SIZE, "--sample")
    assert done.code == 2 and f"--sample: {TOKENS} is an FSQ model" in done.err


class I3dStandIn(torch.nn.Module):
    """Takes what I3D takes and gives a few moments of the pixels."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale and resize and return_features
        mean = x.mean(dim=[2, 3, 4])
        return torch.cat([mean, (x - mean[:, :, None, None, None]).abs().mean(dim=[2, 3, 4])], dim=1)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of random networks in the published files' forms: VGG16's, LPIPS's, I3D's."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    state = Lpips().state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("lin")}, folder / "vgg16.pth")
    lins = {key: torch.rand_like(value) for key, value in state.items() if key.startswith("lin")}  # 0 in a new one
    torch.save(lins, folder / "lpips.pth")
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(I3dStandIn())
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.save"):
        torch.jit.save(scripted, str(folder / "i3d.pt"))
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", [CLIPS, STREAM])
def test_lpips_and_fvd(
    vidtok: Cli, checkpoints: dict[str, Path], networks: dict[str, Path], tmp_path: Path, name: str
) -> None:
    frames = np.random.default_rng(9).integers(0, 255, (80, 48, 48, 3), dtype=np.uint8)
    (tmp_path / "v.mp4").write_bytes(make_video(frames, fps=30))
    arguments = ("--lpips", networks["vgg16"], "--lpips", networks["lpips"], "--fvd", networks["i3d"])
    data = ("--data", tmp_path / "v.mp4", "--checkpoint", checkpoints[name])
    result = evaluate(vidtok, tmp_path / "out", *data, *arguments)
    lpips = load_lpips([networks["vgg16"], networks["lpips"]])
    whole = taken(tmp_path / "v.mp4", 1)
    if name == CLIPS:
        clips = clips_of(whole, 17)
        decoded = round_trips(name, clips)
    else:
        encoder, decoder = golden_tokenizer(name).stream_encoder(), golden_tokenizer(name).stream_decoder()
        latents = [encoder.push(whole).latents, encoder.finish().latents]
        back = torch.cat([decoder.push(torch.cat(latents, dim=2)), decoder.finish()], dim=2)[:, :, :80].clamp(-1, 1)
        # Whole clips of 33 frames, for I3D; LPIPS is over all frames.
        clips, decoded = ([values[:, :, :33], values[:, :, 33:66], values[:, :, 66:]] for values in (whole, back))
    with torch.no_grad():
        values = [lpips(*pair)[0] for pair in zip(clips, decoded, strict=True)]
    per_clip = [float(value.mean()) for value in values] if name == CLIPS else [float(torch.cat(values).mean())]
    assert result.json["overall"]["lpips"] == pytest.approx(np.mean(per_clip), rel=1e-3)
    assert result.json["overall"]["lpips"] > 0.01
    fvd = FrechetDistance()
    stand_in = I3dStandIn()
    for pair in list(zip(clips, decoded, strict=True))[: 5 if name == CLIPS else 2]:
        fvd.update(*(video_features(stand_in, clip) for clip in pair))
    assert result.json["overall"]["fvd_clips"] == (5 if name == CLIPS else 2)
    assert result.json["overall"]["fvd"] == pytest.approx(fvd.compute(), rel=1e-3)


def test_a_video_that_breaks_off_counts_nowhere(
    vidtok: Cli, checkpoints: dict[str, Path], networks: dict[str, Path], tmp_path: Path
) -> None:
    frames = np.random.default_rng(9).integers(0, 255, (80, 48, 48, 3), dtype=np.uint8)
    whole = make_video(frames, fps=30, container="matroska")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mkv").write_bytes(whole)
    arguments = ("--data", tmp_path / "videos", "--checkpoint", checkpoints[CLIPS], "--fvd", networks["i3d"])
    alone = evaluate(vidtok, tmp_path / "alone", *arguments).json["overall"]
    (tmp_path / "videos" / "cut.mkv").write_bytes(whole[: 3 * len(whole) // 4])
    beside = evaluate(vidtok, tmp_path / "beside", *arguments).json
    assert (
        [failure["video"] for failure in beside["failures"]] == ["cut.mkv"]
        and beside["overall"] == alone
        and alone["fvd_clips"] == 5
    )


def test_what_is_not_taken_is_told_with_what_it_wants(
    vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path
) -> None:
    data = ("--data", videos, "--checkpoint", checkpoints[CLIPS])
    result = evaluate(vidtok, tmp_path / "out", *data)
    lines = {line.split("  ")[0]: line.split()[-2:] for line in result.out.splitlines()}
    published = PUBLISHED_QUALITY[CLIPS]
    assert lines["LPIPS"] == ["taken", f"{published.lpips}"] and lines["FVD"] == ["taken", f"{published.fvd}"]
    assert lines["PSNR, dB"] == [f"{result.json['overall']['psnr']:.2f}", f"{published.psnr}"]
    assert "--lpips: VGG16's weights are torchvision's vgg16-397923af.pth" in result.out
    assert "--fvd: expected StyleGAN-V's i3d_torchscript.pt" in result.out
    for option, message in (("--lpips", "none.pth: there is no such file"), ("--fvd", "stylegan-v names its link")):
        done = vidtok("evaluate", "--out", tmp_path / "x", "--size", SIZE, *data, option, "none.pth")
        assert done.code == 2 and message in done.err


def test_refused(vidtok: Cli, checkpoints: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "index.html").mkdir(parents=True)
    checkpoint = ("--checkpoint", checkpoints[CLIPS], "--size", SIZE)
    for arguments, message in [
        (("--data", tmp_path / "empty", "--out", tmp_path / "x"), "nothing matches"),
        (("--data", tmp_path / "none", "--out", tmp_path / "x"), "none"),
        (("--data", videos / "none.mp4", "--out", tmp_path / "x"), "has figures: none.mp4: "),
        (("--data", videos, "--out", tmp_path / "file"), f"--out {tmp_path}/file: cannot be written: File exists"),
        (("--data", videos, "--out", tmp_path / "taken"), f"--out {tmp_path}/taken: cannot be written: Is a directory"),
        (("--data", videos, "--out", tmp_path / "x", "--size", 8), "11"),
    ]:
        done = vidtok("evaluate", *checkpoint, *arguments)
        assert done.code == 2 and message in done.err, done.err


def assert_opens(open_page: Any, page: Path, *, pictures: int, rows: int) -> Any:
    """The page loads nothing from elsewhere, shows its pictures, and has nothing to complain of."""
    opened = open_page(page)
    widths = opened.eval_on_selector_all("img", "images => images.map(image => image.complete && image.naturalWidth)")
    assert len(widths) == pictures and all(width >= SIZE for width in widths)
    sizes = opened.eval_on_selector_all("svg", "plots => plots.map(plot => plot.getBoundingClientRect().height)")
    assert len(sizes) == 2 and min(sizes) > 50
    assert opened.locator("#videos tr").count() == rows + 1
    return opened


def test_the_page(vidtok: Cli, checkpoints: dict[str, Path], tmp_path: Path, open_page: Any) -> None:
    """Also of videos whose names are no HTML, and of more than there are pictures of."""
    (tmp_path / "videos").mkdir()
    for name in (HOSTILE.replace("/", "%"), "b", "\u6f22\u5b57"):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(make_video(gradient_frames(20), fps=30))
    (tmp_path / "videos" / "broken.mp4").touch()
    data = ("--data", tmp_path / "videos", "--checkpoint", checkpoints[CLIPS], "--pictures", 2)
    result = evaluate(vidtok, tmp_path / "out", *data)
    opened = assert_opens(open_page, result.page, pictures=2, rows=3)
    assert opened.title() == f"{CLIPS}: reconstruction"
    assert HOSTILE.replace("/", "%") in opened.locator("#videos").inner_text()
    assert opened.locator("#failures tr").count() == 1
    overall = [cell.split("\t") for cell in opened.locator("#overall").inner_text().splitlines()]
    assert overall[1] == ["PSNR, dB", f"{result.json['overall']['psnr']:.2f}", "29.64"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [CLIPS, STREAM])
def test_three_real_clips(
    vidtok: Cli, checkpoints: dict[str, Path], shared_videos: Path, tmp_path: Path, open_page: Any, name: str
) -> None:
    """At 64 pixels, with weights that garble: what is looked at is that all of it runs."""
    (tmp_path / "videos").mkdir()
    for clip in ("bikes.mp4", "carphone_pristine.mp4", "tree.avi"):
        shutil.copy(shared_videos / clip, tmp_path / "videos")
        target = tmp_path / f"{clip}.mp4"
        done = vidtok(
            "reconstruct", shared_videos / clip, "--checkpoint", checkpoints[name], "--out", target, "--size", 64
        )
        assert done.code == 0 and target.stat().st_size > 10_000, done.err
    result = evaluate(vidtok, tmp_path / "out", "--data", tmp_path / "videos", "--checkpoint", checkpoints[name])
    assert {video["video"]: video["frames"] for video in result.json["videos"]} == {
        "bikes.mp4": 250,
        "carphone_pristine.mp4": 120,
        "tree.avi": 68,
    }
    assert all(5 < video["psnr"] < 40 and 0 < video["ssim"] < 1 for video in result.json["videos"])
    assert_opens(open_page, result.page, pictures=3, rows=3)
