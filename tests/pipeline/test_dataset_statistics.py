"""Statistics of datasets, against numpy over all rows as pyarrow reads them."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.code_usage
import pipeline.dataset_statistics
import pipeline.parts
import pipeline.rows
from pipeline.dataset_statistics import DatasetStatistics, dataset_statistics, save_statistics
from pipeline.errors import ConfigError, StorageError
from pipeline.reading.source import Source
from pipeline.row_sets import REMOVED, add_rows
from pipeline.statistics import channel_statistics, channel_sums
from pipeline.storage import open_store
from tests.rows_for_tests import made_rows, rejected_videos

GRIDS = ((2, 3, 4), (3, 2, 2))
KL = "vidtok_kl_causal_488_4chn"
TINY = "vidtok_tiny_fsq_causal_488_1073741824"


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several row groups a part."""
    monkeypatch.setattr(
        pipeline.parts, "table_bytes", functools.partial(pipeline.parts.table_bytes, row_group_bytes=1500)
    )


def statistics_of(root: Path, threads: int = 3, **options: Any) -> DatasetStatistics:
    source = Source(str(root), columns=None, snapshot=None, split=None, cache=None, storage={})
    return dataset_statistics(source, threads=threads, **options)


def all_rows(root: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((root / "data").glob("*.parquet")))


def assert_rows(found: DatasetStatistics, rows: pa.Table) -> None:
    """The counts of rows, against a table of them."""
    shapes = Counter(zip(*(rows.column(f"latent_{axis}").to_pylist() for axis in "thw"), strict=True))
    assert {tuple(shape["shape"]): shape["rows"] for shape in found.rows.shapes} == shapes
    assert found.rows.rows == len(rows)
    assert found.rows.tokens == sum(np.prod(shape) * count for shape, count in shapes.items())
    assert found.rows.frames == sum(rows.column("num_frames").to_pylist())
    assert found.rows.padded_frames == sum(rows.column("num_padded_frames").to_pylist())
    assert found.rows.seconds == pytest.approx(sum(rows.column("duration_seconds").to_pylist()), rel=1e-12)


def assert_codes(found: DatasetStatistics, rows: pa.Table, levels: tuple[int, ...]) -> None:
    """The usage of codes, against all tokens."""
    tokens = np.concatenate([np.array(row) for row in rows.column("tokens").to_pylist()])
    codes, counts = np.unique(tokens, return_counts=True)
    usage, shares = found.codes, counts / counts.sum()
    assert usage is not None
    assert (usage.tokens, usage.used, usage.dead) == (len(tokens), len(codes), int(np.prod(levels)) - len(codes))
    assert usage.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-12)
    assert usage.share_of_top["10"] == pytest.approx(np.sort(shares)[-10:].sum(), rel=1e-12)
    for place, digit in enumerate(usage.digits):
        values = tokens // int(np.prod(levels[:place])) % levels[place]
        assert digit.counts == [int((values == value).sum()) for value in range(levels[place])]


@pytest.mark.parametrize("threads", [1, 3])
def test_tokens(tmp_path: Path, threads: int) -> None:
    """Of two snapshots, two shapes in each part, several row groups a part."""
    made_rows(tmp_path, grids=GRIDS)
    made_rows(tmp_path, grids=GRIDS[1:], first_shard=3, shards=2, clips=5)
    told: list[tuple[int, int]] = []
    found = statistics_of(tmp_path, threads, on_progress=lambda *numbers: told.append(numbers))
    rows = all_rows(tmp_path)
    assert_rows(found, rows)
    assert_codes(found, rows, (8, 8, 8, 8))
    assert (found.snapshot, found.removals, found.latents) == (2, 0, None)
    assert told[0] == (0, len(rows)) and told[-1] == (len(rows), len(rows)) and len(told) > 11
    by_source = Counter(rows.column("source_shard").to_pylist())
    assert {source["source"]: source["rows"] for source in found.committed.sources} == by_source
    keys = set(zip(rows.column("source_shard").to_pylist(), rows.column("source_key").to_pylist(), strict=True))
    assert {source["source"]: source["videos"] for source in found.committed.sources} == Counter(
        source for source, _ in keys
    )
    assert (found.committed.shards, found.committed.videos, found.committed.rows) == (5, len(keys), len(rows))


def test_padded_frames_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = pipeline.rows._row

    def padded(clip: Any, *arguments: Any, **options: Any) -> Any:
        made = row(clip, *arguments, **options)
        return {**made, "num_padded_frames": clip.clip_index, "duration_seconds": 0.1 * (1 + clip.clip_index)}

    monkeypatch.setattr(pipeline.rows, "_row", padded)
    made_rows(tmp_path, shards=1)
    found = statistics_of(tmp_path)
    assert found.rows.padded_frames == 8 * (0 + 1 + 2)
    assert_rows(found, all_rows(tmp_path))


def test_sparse_and_dense_counting_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_rows(tmp_path, grids=GRIDS)
    dense = statistics_of(tmp_path)
    monkeypatch.setattr(pipeline.code_usage, "_MOST_DENSE", 0)
    assert statistics_of(tmp_path).to_json() == dense.to_json()


def test_a_codebook_of_30_bits(tmp_path: Path) -> None:
    made_rows(tmp_path, grids=GRIDS, model=TINY)
    assert_codes(statistics_of(tmp_path), all_rows(tmp_path), (32, 16, 16, 8, 8, 8, 4, 4, 4, 4))


def test_removed_rows_are_left_out_of_what_is_scanned(tmp_path: Path) -> None:
    dataset = made_rows(tmp_path, grids=GRIDS, shards=2)
    parts = sorted(path.name for path in (tmp_path / "data").glob("*.parquet"))
    removed = {(f"data/{parts[0]}", 0): [0, 1], (f"data/{parts[3]}", 1): [0]}
    add_rows(dataset.store, REMOVED, removed.items(), {})
    kept = []
    for name in parts:
        with pq.ParquetFile(tmp_path / "data" / name) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                gone = removed.get((f"data/{name}", group), [])
                kept.append(table.take([number for number in range(len(table)) if number not in gone]))
    rows = pa.concat_tables(kept)
    found = statistics_of(tmp_path)
    assert (found.removals, len(rows), found.committed.rows) == (1, 45, 48)
    assert_rows(found, rows)
    assert_codes(found, rows, (8, 8, 8, 8))


def test_rejects_and_videos(tmp_path: Path) -> None:
    """A supplementary shard counts with the source whose videos it tries again."""
    dataset = made_rows(tmp_path, shards=1)
    rejected_videos(dataset, "bad-0000000001", ["timeout", "unreadable", "timeout"])
    rejected_videos(dataset, "bad-0000000001~retry1", ["crash", "timeout", "crash"], path="bad-0000000001.tar")
    found = statistics_of(tmp_path)
    assert list(found.committed.rejects_by_class.items()) == [("timeout", 3), ("crash", 2), ("unreadable", 1)]
    assert (found.committed.shards, found.committed.videos, found.committed.rows) == (3, 8, 24)
    assert found.committed.sources == [
        {"source": "0.tar", "videos": 8, "rows": 24},
        {"source": "bad-0000000001.tar", "videos": 0, "rows": 0},
    ]


def test_of_many_sources_the_smallest_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.dataset_statistics, "_MOST_SOURCES", 2)
    made_rows(tmp_path, shards=2)
    made_rows(tmp_path, shards=2, first_shard=2, videos=1)
    assert statistics_of(tmp_path).committed.sources == [
        {"source": "0.tar", "videos": 8, "rows": 24},
        {"source": "1.tar", "videos": 8, "rows": 24},
        {"source": None, "videos": 4, "rows": 12},
    ]


def latents_of(rows: pa.Table) -> list[np.ndarray]:
    """Each row's latents, (C, T, H * W)."""
    return [
        np.frombuffer(row["latents"], "<f2").astype(np.float64).reshape(4, row["latent_t"], -1)
        for row in rows.select(["latents", "latent_t"]).to_pylist()
    ]


def test_latents(tmp_path: Path) -> None:
    """Mean and deviation of all values at once; one pass and merged sums differ by roundings alone."""
    made_rows(tmp_path, grids=GRIDS, model=KL)
    made_rows(tmp_path, grids=GRIDS, model=KL, first_shard=3, shards=2)
    found = statistics_of(tmp_path)
    rows = all_rows(tmp_path)
    assert_rows(found, rows)
    assert found.codes is None and found.latents is not None
    values = latents_of(rows)
    for channels, pieces in (
        (found.latents.first, [value[:, 0] for value in values]),
        (found.latents.rest, [value[:, 1:].reshape(4, -1) for value in values]),
    ):
        whole_CN = np.concatenate(pieces, axis=1)
        assert channels.count == whole_CN.shape[1]
        np.testing.assert_allclose(channels.mean_C, whole_CN.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(channels.std_C, whole_CN.std(axis=1), rtol=1e-12)
    plain = found.to_json()["latents"]
    assert plain["rest"] == {
        "count": found.latents.rest.count,
        "mean": found.latents.rest.mean_C.tolist(),
        "std": found.latents.rest.std_C.tolist(),
    }


def row_of(latents_CTHW: np.ndarray, **others: int) -> dict[str, Any]:
    grid = dict(zip(("latent_t", "latent_h", "latent_w"), latents_CTHW.shape[1:], strict=True))
    return {"latents": latents_CTHW.astype("<f2").tobytes(), **grid, **others}


def test_channel_statistics_of_streams() -> None:
    """The first latent frame is that of the first segment; commits without latents count for nothing."""
    segments = np.random.default_rng(0).integers(-8, 8, (5, 3, 2, 2, 2)).astype(np.float64)
    rows = [row_of(values, segment_index=number) for number, values in enumerate(segments)]
    commits = [{"statistics": channel_sums(some)} for some in (rows[:2], [], rows[2:])]
    found = channel_statistics(commits)
    assert found is not None
    np.testing.assert_allclose(found.first.mean_C, segments[0][:, 0].mean(axis=(1, 2)), rtol=1e-12)
    rest = np.concatenate([segments[0][:, 1:], *segments[1:]], axis=1)
    np.testing.assert_allclose(found.rest.mean_C, rest.mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.rest.std_C, rest.std(axis=(1, 2, 3)), rtol=1e-12)
    assert channel_statistics([{"statistics": None}]) is None and channel_statistics([]) is None


def test_a_channel_that_hardly_varies_has_no_negative_variance() -> None:
    """Sums of very many values are rounded, so that the mean of squares may fall short of the mean's square."""
    sums = {"count": 3, "sum": [0.3, 3000.9], "sum_of_squares": np.nextafter([0.03, 3 * 1000.3**2], 0).tolist()}
    found = channel_statistics([{"statistics": {"first": sums, "rest": sums}}])
    assert found is not None
    np.testing.assert_allclose(found.rest.mean_C, [0.1, 1000.3], rtol=1e-12)
    assert np.all(found.rest.std_C >= 0) and np.all(found.rest.std_C < 1e-4)
    constant = channel_statistics([{"statistics": channel_sums([row_of(np.full((1, 2, 7, 9), 1000.3))])}] * 11)
    assert constant is not None
    assert (constant.first.std_C.tolist(), constant.first.mean_C.tolist()) == ([0.0], [float(np.float16(1000.3))])


def test_clips_of_one_latent_frame_have_no_rest() -> None:
    found = channel_statistics([{"statistics": channel_sums([row_of(np.ones((2, 1, 2, 2)))])}])
    assert found is not None and (found.first.count, found.rest.count) == (4, 0)
    assert np.isnan(found.rest.mean_C).all() and np.isnan(found.rest.std_C).all() and len(found.rest.mean_C) == 2


@pytest.mark.parametrize("model", ["vidtok_fsq_causal_488_4096", KL])
def test_a_dataset_without_rows(tmp_path: Path, model: str) -> None:
    made_rows(tmp_path, parts=0, model=model)
    found = statistics_of(tmp_path)
    assert found.rows == pipeline.dataset_statistics.RowCounts(
        rows=0, tokens=0, frames=0, padded_frames=0, seconds=0.0, shapes=[]
    )
    assert found.latents is None and (found.codes is None) == (model == KL)
    assert found.committed.shards == 3


def test_a_dataset_without_a_snapshot_is_told(tmp_path: Path) -> None:
    made_rows(tmp_path)
    for path in (tmp_path / "_snapshots").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="has no snapshot"):
        statistics_of(tmp_path)


def test_a_damaged_part_is_told_and_ends_it(tmp_path: Path) -> None:
    made_rows(tmp_path)
    path = sorted((tmp_path / "data").iterdir())[2]
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StorageError, match=path.name):
        statistics_of(tmp_path)


def test_what_is_saved_is_of_the_newest_snapshot(tmp_path: Path) -> None:
    dataset = made_rows(tmp_path)
    for number in (1, 2):
        found = statistics_of(tmp_path)
        save_statistics(open_store(str(tmp_path)), found)
        saved = json.loads((tmp_path / "stats.json").read_text())
        assert saved == json.loads(json.dumps(found.to_json()))
        assert (saved["snapshot"], saved["removals"]) == (number, 0)
        assert saved["fingerprint"] == dataset.description["fingerprint"]
        assert saved["rows"]["rows"] == len(all_rows(tmp_path))
        made_rows(tmp_path, first_shard=2 + number, shards=1)
