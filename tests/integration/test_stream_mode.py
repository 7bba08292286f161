"""`clips.mode: stream`: a video's rows are segments of one stream, and join to the whole video's latents."""

import hashlib
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.decoding.frames import decode_frames
from pipeline.encode import frames_to_clips
from pipeline.errors import ConfigError
from pipeline.job import run_job
from pipeline.parts import FOOTER_KEY, opened_parquet, table_bytes
from pipeline.reconstruct import clips_to_frames, decode_row, decode_stream, load_decoder
from pipeline.removal import remove_videos
from pipeline.rewriting import rewrite_parts
from pipeline.shard_log import commit_path
from pipeline.verify import verify_dataset
from pipeline.video_file import write_video
from tests.jobs_for_tests import dataset_rows, job, merge, pack_real_clips, real_clips, store_of
from tests.media import make_video, pack_tar
from tests.rows_for_tests import row_groups_of
from tests.support import ROOT
from vidtok_model import VideoTokenizer

FSQ, KL = "vidtok_fsq_causal_488_32768_v1_1", "vidtok_kl_causal_288_8chn_v1_1"
STREAM: dict[str, Any] = {
    "model": {"name": FSQ, "checkpoint": "random", "overrides": {"base_channels": 16}},
    "clips": {"mode": "stream", "segment_frames": 16, "fps": 8, "size": 64},
    "executor": {"kind": "inline", "cpus_per_worker": 1, "batch_size": 1},
    "rows": {"part_bytes": 2**20},
}
KL_STREAM = merge(STREAM, {"model": {"name": KL}, "rows": {"logvar": True}})


def run(shards: Path, output: Path, changes: dict[str, Any]) -> JobConfig:
    config = job(shards, output, **changes)
    assert not run_job(config).failures
    return config


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_real_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def tokens(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    return run(shards, tmp_path_factory.mktemp("fsq") / "dataset", STREAM)


def whole_video(path: Path, config: JobConfig) -> torch.Tensor:
    """All sampled frames of a video as one clip, the last repeated to k*f + 1."""
    with path.open("rb") as file:
        frames = list(decode_frames(file, path.stat().st_size, config.decode_options()))
    pixels_BTHWC = torch.from_numpy(np.stack([frame.pixels_HWC for frame in frames]))[None]
    factor = config.model.tokenizer_config().time_factor
    repeated = -(len(frames) - 1) % factor
    clips_BCTHW = frames_to_clips(pixels_BTHWC)
    return torch.cat([clips_BCTHW, clips_BCTHW[:, :, -1:].expand(-1, -1, repeated, -1, -1)], dim=2)


def videos_of(config: JobConfig) -> dict[str, list[dict[str, Any]]]:
    rows = dataset_rows(config).to_pylist()
    return {key: list(group) for key, group in itertools.groupby(rows, key=lambda row: row["source_key"])}


def tokenizer_of(config: JobConfig) -> VideoTokenizer:
    return load_decoder(Dataset.open(store_of(config)).description)


def grid(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["latent_t"], row["latent_h"], row["latent_w"]


def test_segments_join_to_the_whole(tokens: JobConfig) -> None:
    videos, tokenizer = videos_of(tokens), tokenizer_of(tokens)
    assert len(videos) == len(real_clips())
    for path in real_clips():
        rows = videos[f"{path.stem}_{path.suffix[1:]}"]
        whole = whole_video(path, tokens)
        assert [row["segment_index"] for row in rows] == [row["clip_index"] for row in rows] == list(range(len(rows)))
        # Each row has the shape of any other; the first holds one frame and three for each further latent.
        assert {grid(row) for row in rows} == {(4, 8, 8)}
        assert [row["num_frames"] for row in rows] == [13] + [16] * (len(rows) - 1)
        assert [row["num_padded_frames"] for row in rows[:-1]] == [0] * (len(rows) - 1)
        starts = np.cumsum([0] + [row["num_frames"] for row in rows])[:-1]
        seconds = np.concatenate([np.asarray(row["frame_seconds"]) + row["start_seconds"] for row in rows])
        assert np.all(np.diff(seconds) >= 0) and len(seconds) - rows[-1]["num_padded_frames"] <= whole.shape[2]
        assert len(starts) == len(rows)
        joined = np.concatenate([np.asarray(row["tokens"]).reshape(grid(row)) for row in rows])
        with torch.inference_mode():
            expected = tokenizer.encode(whole).tokens[0].numpy()
        # Behind the whole video's latents stand those of the padding that makes the last segment one.
        same = joined[: len(expected)] == expected
        assert same.mean() > 0.998, f"{path.name}: {(~same).sum()} of {same.size} differ"


def test_latents_and_logvar_join_too(shards: Path, tmp_path: Path) -> None:
    config = run(shards, tmp_path / "dataset", KL_STREAM)
    tokenizer = tokenizer_of(config)
    path = real_clips()[0]
    rows = videos_of(config)[f"{path.stem}_{path.suffix[1:]}"]
    assert {row["num_frames"] for row in rows[:1]} == {15} and {row["num_frames"] for row in rows[1:]} <= {16}
    with torch.inference_mode():
        encoded = tokenizer.encode(whole_video(path, config))
    for column, expected in (("latents", encoded.mean), ("logvar", encoded.logvar)):
        joined = np.concatenate([np.frombuffer(row[column], "<f2").reshape(8, *grid(row)) for row in rows], axis=1)
        wanted = expected[0].numpy()
        # What is stored has eleven bits.
        assert np.abs(joined[:, : wanted.shape[1]] - wanted).max() <= 1e-4 + np.abs(wanted).max() * 2**-11


def test_rows_decode_as_the_stream(tokens: JobConfig, tmp_path: Path) -> None:
    """One row, asked for by the command line, and all rows in order: the frames of one streamed decoding."""
    tokenizer = tokenizer_of(tokens)
    rows = max(videos_of(tokens).values(), key=len)
    joined = torch.from_numpy(np.concatenate([np.asarray(row["tokens"]).reshape(grid(row)) for row in rows]))[None]
    stream = tokenizer.stream_decoder()
    expected = clips_to_frames(torch.cat([stream.push(joined), stream.finish()], dim=2))[0]
    decoded = list(decode_stream(rows, tokenizer))
    assert [len(frames) for frames in decoded] == [row["num_frames"] for row in rows]
    assert np.abs(np.concatenate(decoded).astype(int) - expected).max() <= 1
    for number in (0, 1, len(rows) - 1):
        row = rows[number]
        real = row["num_frames"] - row["num_padded_frames"]
        target, wanted = tmp_path / f"{number}.mp4", tmp_path / "wanted.mp4"
        command = [sys.executable, "-m", "jobs.cli", "decode", tokens.output, "--id", row["id"], "--out"]
        subprocess.run([*command, str(target)], cwd=ROOT, check=True, capture_output=True)
        write_video(wanted, decoded[number][:real], np.asarray(row["frame_seconds"][:real]))
        assert np.array_equal(read_video(target), read_video(wanted))
        # By itself a row is another clip, whose first latent is one frame.
        assert number == 0 or not np.array_equal(decode_row(row, tokenizer), decoded[number])


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def test_each_scene_is_a_stream(tmp_path: Path) -> None:
    dark, bright = (np.full((40, 64, 64, 3), level, np.uint8) for level in (30, 220))
    pack_tar(tmp_path / "0.tar", [("v.mp4", make_video(np.concatenate([dark, bright[:20]])))])
    config = run(tmp_path / "0.tar", tmp_path / "dataset", merge(STREAM, {"clips": {"fps": 10, "scene_cuts": "split"}}))
    rows = dataset_rows(config).to_pylist()
    assert [(row["clip_index"], row["segment_index"], row["num_frames"]) for row in rows] == [
        (0, 0, 13),
        (1, 1, 16),
        (2, 2, 16),
        (3, 0, 13),
        (4, 1, 16),
    ]
    assert [row["num_padded_frames"] for row in rows] == [0, 0, 5, 0, 9]
    dataset = Dataset.open(store_of(config))
    for number, (length, place) in enumerate([(2, 0), (3, 1), (3, 2), (2, 0), (2, 1)]):
        found, at = dataset.find_stream(rows[number]["id"])
        assert (len(found), at) == (length, place) and found["id"][place].as_py() == rows[number]["id"]
    assert not verify_dataset(dataset, deep=True).problems
    (path,) = dataset.parts()
    with opened_parquet(dataset.store.read(path)) as file:
        table, footer = file.read(), json.loads(file.metadata.metadata[FOOTER_KEY])
    column = table.column_names.index("segment_index")
    table = table.set_column(column, "segment_index", pa.array([0, 2, 1, 1, 1], pa.int32()))
    damaged = table_bytes(table, footer)
    dataset.store.put(path, damaged)
    # As if it had been written so: only its rows tell.
    (commit,) = dataset.commits()
    commit["parts"][0] |= {"size_bytes": len(damaged), "sha256": hashlib.sha256(damaged).hexdigest()}
    dataset.store.put(commit_path(commit["shard_id"]), json.dumps(commit).encode())
    for snapshot in list(dataset.store.list("_snapshots")):
        dataset.store.delete(snapshot.path)
    problems = [problem for problem in verify_dataset(dataset).problems if "segment_index" in problem]
    assert [problem.partition("segment_index: ")[2] for problem in problems] == [
        "found 2, expected 0 or 1",
        "found 1, expected 0 or 3",
        "found 1, expected 0 or 2",
        "found 1, expected 0 or 2",
    ]
    for number in (1, 2):
        with pytest.raises(ConfigError, match="the segments before it are not all there"):
            dataset.find_stream(rows[number]["id"])


def test_a_stream_across_row_groups_is_found_and_others_are_removed(tmp_path: Path) -> None:
    """Only the row groups are read that hold the stream, before and after the videos beside it were erased."""
    frames = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    pack_tar(tmp_path / "0.tar", [(f"{key}.mp4", make_video(frames)) for key in "abc"])
    with row_groups_of(3):
        config = run(tmp_path / "0.tar", tmp_path / "dataset", merge(STREAM, {"clips": {"fps": None}}))
    dataset = Dataset.open(store_of(config))
    (commit,) = dataset.commits()
    assert [part["row_groups"] for part in commit["parts"]] == [[3, 3, 3, 3]]
    rows = dataset_rows(config).to_pylist()
    assert [row["segment_index"] for row in rows] == [0, 1, 2, 3] * 3

    def check_found(key: str) -> None:
        stream = [row for row in rows if row["source_key"] == key]
        for place, row in enumerate(stream):
            found, at = dataset.find_stream(row["id"])
            assert at == place and found.to_pylist() == stream[: place + 2]

    for key in "abc":
        check_found(key)
    remove_videos(dataset, ["a", "c"])
    for act in (lambda: None, lambda: list(rewrite_parts(dataset, remove=True))):
        act()
        check_found("b")
        for row in rows[:4] + rows[8:]:
            with pytest.raises(ConfigError, match="no committed row has the id"):
                dataset.find_stream(row["id"])
    assert verify_dataset(dataset, deep=True).problems == [] and dataset_rows(config).num_rows == 4


def test_a_tail_that_is_dropped_and_a_still(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 90, 90)).save(picture, "PNG")
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)
    members = [
        ("long.mp4", make_video(frames)),
        ("short.mp4", make_video(frames[:12])),
        ("still.png", picture.getvalue()),
    ]
    pack_tar(tmp_path / "0.tar", members)
    config = run(tmp_path / "0.tar", tmp_path / "dataset", merge(STREAM, {"clips": {"fps": 10, "tail": "drop"}}))
    rows = dataset_rows(config).to_pylist()
    assert [(row["source_key"], row["segment_index"], row["num_frames"], row["latent_t"]) for row in rows] == [
        ("long", 0, 13, 4),
        ("long", 1, 16, 4),
        ("still", 0, 1, 1),
    ]
    (reject,) = Dataset.open(store_of(config)).rejects().to_pylist()
    assert (reject["source_key"], reject["error"]) == ("short", "too_short") and "a clip has 13" in reject["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"name": "vidtok_fsq_causal_488_32768"}},
            r"clips\.mode: vidtok_fsq_causal_488_32768 takes no stream",
        ),
        ({"clips": {"segment_frames": 18}}, r"clips\.segment_frames: 18 is no multiple of 4"),
        ({"clips": {"num_frames": 33}}, "num_frames: 33 goes with mode: windows"),
        ({"clips": {"stride": 8}}, "stride: 8 goes with mode: windows"),
        ({"executor": {"batch_size": 2}}, r"executor\.batch_size: 2 goes with clips\.mode: windows"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job("x.tar", "out", **merge(STREAM, changes))


MEASURED = """
import sys
from pathlib import Path
from tests.integration.test_stream_mode import STREAM, run
from tests.memory import peak_bytes
run(Path(sys.argv[1]), Path(sys.argv[2]), STREAM)
print(peak_bytes())
"""


@pytest.mark.slow
def test_twenty_minutes_take_the_memory_of_one(tmp_path: Path) -> None:
    """9,600 frames of 64x64, against 480, in a process each."""
    peaks = {}
    for minutes in (1, 20):
        # Blurred noise that moves, 8 frames a second: as large as a video is, which is read whole.
        coarse = np.random.default_rng(1).integers(0, 255, (80, 8, 8, 3), dtype=np.uint8)
        pixels = np.stack(
            [np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC)) for frame in coarse]
        )
        frames = np.concatenate([np.roll(pixels, shift, axis=2) for shift in range(minutes * 6)])
        pack_tar(tmp_path / f"{minutes}.tar", [("v.mp4", make_video(frames, fps=8, crf=20))])
        command = [sys.executable, "-c", MEASURED, str(tmp_path / f"{minutes}.tar"), str(tmp_path / f"out{minutes}")]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        peaks[minutes] = int(done.stdout.split()[-1])
    print({minutes: f"{peak / 2**20:.0f} MiB" for minutes, peak in peaks.items()})
    assert peaks[20] <= 1.2 * peaks[1]
