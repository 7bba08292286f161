"""Rejected videos are tried again: each once at a time, whoever else does so, and what is committed stays."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.flow
from jobs import upkeep
from jobs.upkeep import retry_rejects
from pipeline.errors import ConfigError
from pipeline.job import run_job
from pipeline.rejected import outstanding_rejects, retry_shards
from tests.jobs_for_tests import dataset_rows
from tests.made_dataset import check, config_of, dataset_of, pack_input, source
from tests.media import gradient_frames, make_video


@pytest.fixture(params=["fsq", "kl"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The job of a dataset with two rejects."""
    pack_input(tmp_path)
    config = config_of(tmp_path, request.param)
    run_job(config)
    return config


@pytest.fixture
def mended(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shard's rejected video can be read now; the second one's cannot."""
    real = pipeline.flow.read_some
    good = make_video(gradient_frames(20))

    def read(*arguments: Any, **options: Any) -> Any:
        for video in real(*arguments, **options):
            yield dataclasses.replace(video, data=good) if video.ref.source_shard == "0.tar" else video

    monkeypatch.setattr(pipeline.flow, "read_some", read)


def silent(_: object) -> None:
    pass


@pytest.mark.usefixtures("mended")
def test_rejects_are_tried_again_as_a_supplement(config: Any, tmp_path: Path) -> None:
    """What failed for a passing reason gets rows; what fails again is rejected again; commits stay."""
    before = {path.name: path.read_bytes() for path in (tmp_path / "out/_commits").iterdir()}
    result, videos = retry_rejects(config, ["timeout", "unreadable"], silent)
    assert videos == 2 and result.progress.shards_done == 2 and not result.failures
    after = {path.name: path.read_bytes() for path in (tmp_path / "out/_commits").iterdir()}
    assert before.items() <= after.items() and len(after) == 4
    rows = dataset_rows(config)
    assert sorted(set(rows["source_key"].to_pylist())) == ["a", "b", "bad"] and rows.num_rows == 10
    (left,) = outstanding_rejects(dataset_of(tmp_path)).values()
    assert [(row["source_shard"], row["source_key"]) for row in left.values()] == [("1.tar", "bad")]
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []
    result, videos = retry_rejects(config, ["unreadable"], silent)
    assert videos == 1 and result.progress.shards_done == 1
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []


def test_a_class_that_nothing_has_is_told(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"no video is left that was rejected as timeuot; there are .* unreadable"):
        retry_rejects(config, ["timeuot"], silent)


@pytest.mark.usefixtures("mended")
def test_of_two_at_once_each_video_is_tried_by_one(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another retry runs from its beginning to its end between our look at the shards and our look at the commits."""
    real = upkeep.retry_shards
    calls = 0

    def choose(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the one whose answer is put
            assert retry_rejects(config, ["unreadable"], silent)[1] == 2
        return real(*arguments)

    monkeypatch.setattr(upkeep, "retry_shards", choose)
    _, videos = retry_rejects(config, ["unreadable"], silent)
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []
    # What failed again under the other may be tried once more; what got rows may not.
    assert videos <= 1 and dataset_rows(config).num_rows == 10


def test_an_append_meanwhile_is_left_alone(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = upkeep.retry_shards
    calls = 0

    def choose(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            (tmp_path / "in/2.tar").write_bytes((tmp_path / "in/1.tar").read_bytes())
            run_job(config, append=True)
        return real(*arguments)

    monkeypatch.setattr(upkeep, "retry_shards", choose)
    result, videos = retry_rejects(config, ["unreadable"], silent)
    # The first choice knew nothing of the new shard, and was made again when its place in the list was taken.
    assert videos == 3 and result.progress.shards_done == 3
    assert check(tmp_path, deep=True, source=source(tmp_path)).problems == []


def test_a_supplement_is_finished_before_another_begins(config: Any, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    pending = retry_shards(dataset, dataset.inputs(), ["unreadable"])
    assert [shard.only for shard in pending] == [(("bad", 0),), (("bad", 0),)]
    assert retry_shards(dataset, [*dataset.inputs(), pending[0]], ["unreadable"]) == pending[1:]
    assert retry_shards(dataset, [*dataset.inputs(), *pending], ["unreadable"]) == []


def test_videos_that_were_not_tried_again_are_seen(config: Any, tmp_path: Path) -> None:
    retry_rejects(config, ["unreadable"], silent)
    path = tmp_path / "out/inputs/00001.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["only"] = [{"key": "bad", "occurrence": 0}, {"key": "a", "occurrence": 0}]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    problems = check(tmp_path).problems
    assert any("~retry1: videos that were to be tried again: found" in line for line in problems), problems
