"""`vidtok reconstruct`: a video through a model and back, of any length, with its sound."""

import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import vidtok_model
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import frames_to_clips
from pipeline.reconstruct import clips_to_frames, reconstructed
from pipeline.video_file import VideoWriter
from tests.jobs.conftest import Cli
from tests.media import gradient_frames, make_video
from tests.servers.web import WebServer
from tests.support import ROOT
from tests.vidtok_model.support import golden_tokenizer
from vidtok_model import MODELS, save_tokenizer

CLIPS, STREAM = "vidtok_kl_causal_488_4chn", "vidtok_fsq_causal_488_32768_v1_1"
CARRIED = ROOT / "jobs" / "clips" / "bigbuckbunny.mp4"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Narrow models, in files that say which they are."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {name: folder / f"{name}.safetensors" for name in (CLIPS, STREAM)}
    for name, path in paths.items():
        save_tokenizer(golden_tokenizer(name), path)
    return paths


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames at uneven times."""
    path = tmp_path_factory.mktemp("video") / "short.mkv"
    seconds = list(np.cumsum([0.0] + [0.1, 0.04, 0.3] * 13))
    path.write_bytes(make_video(gradient_frames(40), seconds=seconds, container="matroska"))
    return path


def read(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


def decoded(path: Path, **options: object):
    data = path.read_bytes()
    return decode_frames(io.BytesIO(data), len(data), DecodeOptions(crop="keep", factor=8, **options))


@pytest.mark.parametrize("name", [CLIPS, STREAM])
def test_frames_times_and_psnr(
    vidtok: Cli, checkpoints: dict[str, Path], short: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "out.mp4"
    done = vidtok("reconstruct", short, "--checkpoint", checkpoints[name], "--out", target, "--size", 32)
    assert done.code == 0, done.err
    ours, times = read(target)
    pairs = list(reconstructed(decoded(short, size=32), golden_tokenizer(name)))
    assert ours.shape == (40, 32, 40, 3)
    assert times == pytest.approx([frame.seconds for frame, _ in pairs], abs=2e-3)
    # H.264 at a high quality, with half the colour's resolution.
    expected = np.stack([pixels_HWC for _, pixels_HWC in pairs])
    grey = [values.mean(axis=3) for values in (ours, expected)]
    assert np.abs(grey[0] - grey[1]).mean() < 6
    errors = [np.mean((pixels_HWC / 255 - frame.pixels_HWC / 255) ** 2) for frame, pixels_HWC in pairs]
    psnr = np.mean(-10 * np.log10(errors))
    assert f"Wrote 40 frames to {target}, {psnr:.2f} dB to the original" in done.out


def test_pairs_belong_together(short: Path) -> None:
    """Frame by frame what the model gives of that clip, the last clip filled up with its last frame."""
    tokenizer = golden_tokenizer(CLIPS)
    frames = list(decoded(short, size=32))
    pairs = list(reconstructed(iter(frames), tokenizer))
    assert [frame.seconds for frame, _ in pairs] == [frame.seconds for frame in frames]
    pixels = np.stack([frame.pixels_HWC for frame in frames])
    for begin in (0, 17, 34):
        clip = pixels[begin : begin + 17]
        filled = np.concatenate([clip, np.repeat(clip[-1:], 17 - len(clip), axis=0)])
        clips = frames_to_clips(torch.from_numpy(filled[None]))
        with torch.inference_mode():
            expected = clips_to_frames(tokenizer.decode(tokenizer.encode(clips).latents))[0][: len(clip)]
        got = np.stack([pixels_HWC for _, pixels_HWC in pairs[begin : begin + 17]])
        assert np.abs(got.astype(int) - expected).max() <= 1


def test_side_by_side_with_sound(vidtok: Cli, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    arguments = ("--checkpoint", checkpoints[CLIPS], "--out", target, "--size", 32, "--side-by-side", "--fps", 5)
    done = vidtok("reconstruct", CARRIED, *arguments)
    assert done.code == 0, done.err
    ours, _ = read(target)
    source = np.stack([frame.pixels_HWC for frame in decoded(CARRIED, size=32, fps=5)])
    assert ours.shape == (len(source), 32, 2 * source.shape[2], 3)
    left = ours[:, :, : source.shape[2]]
    assert np.abs(left.mean(axis=3) - source.mean(axis=3)).mean() < 4
    assert np.abs(ours[:, :, source.shape[2] :].mean(axis=3) - source.mean(axis=3)).mean() > 20, "golden weights garble"
    with av.open(str(target)) as video, av.open(str(CARRIED)) as original:
        sounds = [[bytes(packet) for packet in container.demux(audio=0)] for container in (video, original)]
    assert sounds[0] == sounds[1] and len(sounds[0]) > 200


def test_from_a_url_to_matroska(vidtok: Cli, checkpoints: dict[str, Path], short: Path, tmp_path: Path) -> None:
    with WebServer(short.parent) as server:
        arguments = ("--checkpoint", checkpoints[STREAM], "--out", tmp_path / "out.mkv", "--size", 16)
        done = vidtok("reconstruct", f"{server.url}/{short.name}", *arguments, "--crop", "center")
    assert done.code == 0, done.err
    with av.open(str(tmp_path / "out.mkv")) as video:
        assert "matroska" in video.format.name
    assert read(tmp_path / "out.mkv")[0].shape == (40, 16, 16, 3)


def test_random_weights_by_name(vidtok: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {name: config.replace(base_channels=4) for name, config in MODELS.items()}
    monkeypatch.setattr("vidtok_model.models.MODELS", narrow)
    video = tmp_path / "one.mp4"
    video.write_bytes(make_video(gradient_frames(1)))
    arguments = ("reconstruct", video, "--checkpoint", "random", "--out", tmp_path / "out.mp4", "--size", 16)
    assert vidtok(*arguments, "--model", CLIPS, "--sample").code == 0
    assert read(tmp_path / "out.mp4")[0].shape == (1, 16, 16, 3)
    done = vidtok(*arguments)
    assert done.code == 2 and "--checkpoint random: give --model" in done.err


def test_a_small_model_needs_no_checkpoint(vidtok: Cli, short: Path, tmp_path: Path) -> None:
    (name, *_), target = vidtok_model.CARRIED, tmp_path / "out.mp4"
    done = vidtok("reconstruct", short, "--model", name, "--out", target, "--size", 32)
    assert done.code == 0, done.err
    assert read(target)[0].shape == (40, 32, 40, 3)
    for said, arguments in {
        f"--checkpoint: {CLIPS} needs its weights": ["--model", CLIPS],
        "a model needs": [],
    }.items():
        done = vidtok("reconstruct", short, *arguments, "--out", target)
        assert done.code == 2 and said in done.err


def test_a_video_that_breaks_off(vidtok: Cli, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """What came before is written, and it is told that there was more."""
    whole = make_video(gradient_frames(60), container="matroska")
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    arguments = ("--checkpoint", checkpoints[CLIPS], "--out", tmp_path / "out.mp4", "--size", 16)
    done = vidtok("reconstruct", tmp_path / "cut.mkv", *arguments)
    assert done.code == 1 and "The video ends there: " in done.err and "truncated" in done.err
    frames, _ = read(tmp_path / "out.mp4")
    assert 5 < len(frames) < 60 and f"Wrote {len(frames)} frames" in done.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": "none.mp4"}, "none.mp4: there is no such file"),
        ({"video": "text.mp4"}, "text.mp4: 23 bytes that no demuxer recognises"),
        ({"--out": "text.mp4", "video": "text.mp4"}, "is the video itself"),
        ({"--out": "/nowhere/x.mp4"}, "--out /nowhere/x.mp4: cannot be written: No such file"),
        ({"--out": "out.webm"}, "--out out.webm: expected a name that ends in .mp4 or .mkv"),
        ({"--size": "20"}, "--size 20: vidtok_kl_causal_488_4chn takes multiples of 8"),
        ({"--checkpoint": "none.safetensors"}, "--checkpoint: "),
        ({"--checkpoint": "text.safetensors"}, "--checkpoint: "),
        ({"--model": "vidtok_kl_causal_488_5chn"}, "did you mean vidtok_kl_causal_488_"),
        ({"--model": "vidtok_kl_causal_488_8chn"}, "is of vidtok_kl_causal_488_4chn, not of vidtok_kl_causal_488_8chn"),
        ({"--device": "abacus"}, "--device abacus: "),
    ],
)
def test_refused(
    vidtok: Cli,
    checkpoints: dict[str, Path],
    short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("text.mp4", "text.safetensors"):
        Path(name).write_text("Not what its name says.")
    options = {"--checkpoint": checkpoints[CLIPS], "--out": "out.mp4", "--size": "16", **changes}
    video = options.pop("video", short)
    done = vidtok("reconstruct", video, *[word for option in options.items() for word in option])
    assert done.code == 2 and message in done.err, done.err
    assert not Path("out.mp4").exists()


def test_fsq_has_no_samples(vidtok: Cli, checkpoints: dict[str, Path], short: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", checkpoints[STREAM], "--out", tmp_path / "out.mp4", "--size", 16, "--sample")
    done = vidtok("reconstruct", short, *arguments)
    assert done.code == 2 and f"--sample: {STREAM} is an FSQ model" in done.err


MEASURED = """
from jobs.cli import app
from tests.memory import peak_bytes
app(standalone_mode=False)
print(peak_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [CLIPS, STREAM])
def test_length_costs_no_memory(checkpoints: dict[str, Path], tmp_path: Path, name: str) -> None:
    peaks = []
    for count in (300, 6000):
        path = tmp_path / f"{count}.mp4"
        coarse = np.random.default_rng(0).integers(0, 255, (300, 8, 8, 3), dtype=np.uint8)
        frames = coarse.repeat(8, axis=1).repeat(8, axis=2)  # a file that is smaller than the blocks it is read in
        with VideoWriter(path) as writer:
            for number in range(count):
                writer.write(np.roll(frames[number % 300], number // 300, axis=1), number / 25)
        arguments = [
            "reconstruct",
            path,
            "--checkpoint",
            checkpoints[name],
            "--out",
            tmp_path / "o.mp4",
            "--size",
            "64",
        ]
        command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        assert f"Wrote {count} frames" in done.stdout
        peaks.append(int(done.stdout.split()[-1]))
    print(name, [f"{peak / 2**20:.0f} MiB" for peak in peaks])
    assert peaks[1] <= 1.1 * peaks[0]
