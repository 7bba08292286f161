"""Rows from all over a dataset, and the clips that they were made of, found in the input again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ShardError
from pipeline.input_config import InputConfig
from pipeline.job import run_job
from pipeline.reading.source import Source
from pipeline.removal import remove_videos
from pipeline.row_samples import sample_rows
from pipeline.rows import SEGMENT_COLUMN
from pipeline.source_clips import SourceClips
from pipeline.storage import Store
from tests.jobs_for_tests import dataset_rows, job
from tests.media import gradient_frames, make_video, pack_tar
from tests.rows_for_tests import made_rows, row_groups_of

FRAMES = 40
STREAM = {
    "model": {"name": "vidtok_fsq_causal_488_32768_v1_1"},
    "clips": {"fps": None, "size": 16, "mode": "stream", "segment_frames": 16},
    "executor": {"batch_size": 1},
}
WINDOWS = {"clips": {"fps": None, "size": 16}}


def video(shade: int) -> bytes:
    """Frames that differ from those of any other shade."""
    return make_video(np.roll(gradient_frames(FRAMES), 7 * shade, axis=2))


def source_of(root: Any) -> Source:
    return Source(str(root), columns=None, snapshot=None, split=None, cache=None, storage={})


def tars(folder: Path) -> dict[str, Any]:
    """A key that comes twice is told by how often it came before."""
    for number in range(2):
        members = [(f"v{place}.mp4", video(3 * number + place)) for place in (0, 1, 2)]
        pack_tar(folder / f"{number}.tar", [*members, ("bad.mp4", b"none"), ("v0.mp4", video(9 + number))])
    return {"shards": str(folder)}


def files(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(video(number))
    return {"videos": str(folder), "videos_per_shard": 2}


def spans(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    (folder / "v.mp4").write_bytes(video(0))
    rows = [{"url": "v.mp4", "id": f"s{at}", "start_seconds": at, "end_seconds": at + 0.7} for at in (0.0, 0.5, 0.8)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"manifests": str(folder / "m.jsonl")}


@pytest.mark.parametrize("make", [tars, files, spans])
@pytest.mark.parametrize("mode", ["windows", "stream"])
def test_each_rows_clip_is_found(tmp_path: Path, make: Any, mode: str) -> None:
    changes = {"windows": WINDOWS, "stream": STREAM}[mode]
    config = job("unused", tmp_path / "out", **changes)
    config = config.model_copy(update={"input": InputConfig.model_validate(make(tmp_path / "in"))})
    assert not run_job(config).failures
    source = source_of(tmp_path / "out")
    found = SourceClips(source.dataset)
    table = dataset_rows(config).to_pylist()
    samples = list(sample_rows(source, len(table)))
    if mode == "windows":
        assert [sample.row["id"] for sample in samples] == [row["id"] for row in table]
    else:
        firsts = [row["id"] for row in table if row[SEGMENT_COLUMN] == 0]
        assert [sample.row["id"] for sample in samples] == firsts and len(firsts) > 1
        is_long = make is not spans  # of which each is one segment
        assert {len(sample.rows) for sample in samples} == {1 + is_long}, "the segment behind is needed to decode it"
    frames = {}
    for sample in samples:
        clip = found.find(sample.row, sample.part)
        assert (clip.clip_index, clip.ref.key) == (sample.row["clip_index"], sample.row["source_key"])
        assert clip.num_padded_frames == sample.row["num_padded_frames"]
        assert np.allclose(clip.frame_seconds - clip.frame_seconds[0], sample.row["frame_seconds"])
        assert (found.find(sample.row).frames_THWC == clip.frames_THWC).all(), "without its part it is the same"
        frames[sample.row["id"]] = clip.frames_THWC.tobytes()
    assert len(set(frames.values())) == len(frames), "another video's, or another window's"


def test_no_more_of_a_shard_is_read_than_a_row_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = video(0)
    names = [f"v{number:02d}.mp4" for number in range(20)]
    pack_tar(tmp_path / "in/0.tar", [(name, data + bytes(2**18)) for name in names])
    config = job(tmp_path / "in", tmp_path / "out", **WINDOWS, rows={"part_bytes": 1})
    assert not run_job(config).failures
    source = source_of(tmp_path / "out")
    last = list(sample_rows(source, 10))[-1]
    assert last.row["source_key"] == "v19", "a part for each video"
    offsets: list[int] = []
    real = Store.open

    def opened(store: Store, path: str) -> Any:
        reader = real(store, path)
        read = reader.read
        reader.read = lambda size=-1: (offsets.append(reader.tell()), read(size))[1]
        return reader

    monkeypatch.setattr(Store, "open", opened)
    SourceClips(source.dataset).find(last.row, last.part)
    assert min(offsets) >= 19 * 2**18


def test_what_the_input_has_no_more(tmp_path: Path) -> None:
    tars(tmp_path / "in")
    config = job(tmp_path / "in", tmp_path / "out", **WINDOWS)
    assert not run_job(config).failures
    source = source_of(tmp_path / "out")
    (sample,) = sample_rows(source, 1)
    found = SourceClips(source.dataset)
    with pytest.raises(ShardError, match="no clip of 'gone' has the id"):
        found.find({**sample.row, "source_key": "gone"}, sample.part)
    (tmp_path / "in").rename(tmp_path / "moved")
    moved = SourceClips(source.dataset, patterns=str(tmp_path / "moved"))
    assert moved.find(sample.row, sample.part).ref.key == sample.row["source_key"]


def test_samples_are_spread_and_the_same_each_time(tmp_path: Path) -> None:
    with row_groups_of(5):
        dataset = made_rows(tmp_path)
    remove_videos(Dataset.open(dataset.store), ["v0", "v1"], source_shard="0.tar")
    samples = list(sample_rows(source_of(tmp_path), 6))
    assert [sample.row["id"] for sample in sample_rows(source_of(tmp_path), 6)] == [one.row["id"] for one in samples]
    assert len({sample.part["range"]["start"]["sample"] for sample in samples}) > 1
    assert {sample.row["source_shard"] for sample in samples} == {"0.tar", "1.tar", "2.tar"}
    every = [sample.row for sample in sample_rows(source_of(tmp_path), 1000)]
    assert len(every) == 72 - 6 and not [
        row for row in every if (row["source_shard"], row["source_key"]) == ("0.tar", "v1")
    ]
