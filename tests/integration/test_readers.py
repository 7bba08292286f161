"""Readers that know nothing of us open the parts, and agree."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import JobConfig
from pipeline.job import run_job
from tests.jobs_for_tests import dataset_rows, job
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import require_module

KL_MODEL = {"name": "vidtok_kl_causal_288_8chn"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        videos = [(f"v{i}.mp4", make_video(gradient_frames(20 + 10 * i))) for i in range(3)]
        pack_tar(folder / f"{number}.tar", [*videos, ("v2.txt", "a caption"), ("broken.mp4", b"no video")])
    return str(folder)


@pytest.fixture(scope="module")
def tokens(shards: str, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    config = job(shards, tmp_path_factory.mktemp("tokens"), clips={"fps": None, "size": 32})
    run_job(config)
    return config


def parts_of(config: JobConfig) -> list[str]:
    return sorted(map(str, Path(config.output, "data").glob("*.parquet")))


def expected(config: JobConfig) -> dict[str, list[int]]:
    rows = dataset_rows(config)
    assert rows.num_rows == 14
    return dict(zip(rows.column("id").to_pylist(), rows.column("tokens").to_pylist(), strict=True))


def test_pandas(tokens: JobConfig) -> None:
    pandas = require_module("pandas")
    frame = pandas.concat(pandas.read_parquet(path) for path in parts_of(tokens))
    assert {row.id: list(row.tokens) for row in frame.itertuples()} == expected(tokens)


def test_polars(tokens: JobConfig) -> None:
    polars = require_module("polars")
    frame = polars.read_parquet(parts_of(tokens))
    assert dict(zip(frame["id"].to_list(), frame["tokens"].to_list(), strict=True)) == expected(tokens)
    assert frame.schema["tokens"] == polars.List(polars.Int32)


def test_duckdb(tokens: JobConfig) -> None:
    duckdb = require_module("duckdb")
    glob = str(Path(tokens.output, "data", "*.parquet"))
    with duckdb.connect() as connection:
        found = connection.execute("select id, tokens from read_parquet(?)", [glob]).fetchall()
    assert dict(found) == expected(tokens)


def test_hugging_face_datasets(tokens: JobConfig, tmp_path: Path) -> None:
    datasets = require_module("datasets")
    loaded = datasets.Dataset.from_parquet(parts_of(tokens), cache_dir=str(tmp_path))
    assert {row["id"]: row["tokens"] for row in loaded} == expected(tokens)


def test_latents_are_float16_blobs_in_c_order(shards: str, tmp_path: Path) -> None:
    config = job(shards, tmp_path, model=KL_MODEL, clips={"fps": None, "size": 32}, rows={"logvar": True})
    run_job(config)
    polars = require_module("polars")
    frame = polars.read_parquet(parts_of(config))
    assert frame.height == 14
    for row in frame.iter_rows(named=True):
        shape = (8, row["latent_t"], row["latent_h"], row["latent_w"])
        assert shape == (8, 9, 4, 4)
        for column in ("latents", "logvar"):
            values = np.frombuffer(row[column], "<f2").reshape(shape)
            assert np.isfinite(values).all() and values.std() > 0


def test_ids_join_across_models(shards: str, tokens: JobConfig, tmp_path: Path) -> None:
    config = job(shards, tmp_path, model=KL_MODEL, clips={"fps": None, "size": 32})
    run_job(config)
    assert set(dataset_rows(config).column("id").to_pylist()) == set(expected(tokens))
