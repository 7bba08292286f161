"""One job file over real clips: on any executor and store, unbroken or killed, the dataset is the same."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.config import JobConfig
from pipeline.job import JobResult, run_job
from pipeline.job_file import load_job
from tests.integration.conftest import Place
from tests.jobs_for_tests import (
    SMALL_JOB,
    commits_without_hashes,
    dataset_rows,
    job,
    masked_parts,
    merge,
    real_clips,
    store_of,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_CLIPS = len(real_clips())


@pytest.fixture(scope="module")
def inline(place: Place) -> tuple[JobConfig, JobResult]:
    """The unbroken inline run that others are held against."""
    config = job(place.shards, place.new_output(), storage=place.storage)
    return config, run_job(config)


def assert_same(config: JobConfig, reference: JobConfig) -> None:
    assert dataset_rows(config).equals(dataset_rows(reference))
    assert masked_parts(config) == masked_parts(reference)
    assert commits_without_hashes(config) == commits_without_hashes(reference)


def test_every_clip_becomes_rows(inline: tuple[JobConfig, JobResult]) -> None:
    config, result = inline
    assert not result.failures
    rows = dataset_rows(config)
    keys = set(rows.column("source_key").to_pylist())
    assert keys == {f"{path.stem}_{path.suffix[1:]}" for path in real_clips()}
    assert result.totals["videos"] == NUM_CLIPS
    assert rows.column("caption").to_pylist()[0].startswith("The clip ")
    assert len(set(rows.column("id").to_pylist())) == rows.num_rows
    for tokens in rows.column("tokens").to_pylist():
        assert len(tokens) == 5 * 8 * 8 and min(tokens) >= 0 and max(tokens) < 32_768
    # The last of 132 frames, at 5.24 s, is the nearest to 21/4 s: so 22 are sampled, a clip of 17 and one of 5.
    bunny = [row for row in rows.to_pylist() if row["source_key"] == "bigbuckbunny_mp4"]
    assert [row["num_padded_frames"] for row in bunny] == [0, 12]
    assert [row["start_seconds"] for row in bunny] == pytest.approx([0, 17 / 4], abs=0.02)
    assert [row["duration_seconds"] for row in bunny] == pytest.approx([16 / 4 + 0.04, 4 / 4 + 0.04], abs=0.04)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_ray_gives_the_inline_dataset(inline: tuple[JobConfig, JobResult], place: Place, num_workers: int) -> None:
    executor = {"kind": "ray", "num_workers": num_workers, "gpus_per_worker": 0}
    config = job(place.shards, place.new_output(), storage=place.storage, executor=executor)
    result = run_job(config)
    assert not result.failures
    assert result.progress.counters.videos == NUM_CLIPS
    assert_same(config, inline[0])


def test_batch_shape_and_part_size_change_no_row_but_for_rounding(
    inline: tuple[JobConfig, JobResult], place: Place
) -> None:
    changed = {"executor": {"batch_size": 3}, "rows": {"part_bytes": 2**20}}
    config = job(place.shards, place.new_output(), storage=place.storage, **changed)
    run_job(config)
    ours, theirs = dataset_rows(config), dataset_rows(inline[0])
    assert ours.drop_columns(["tokens"]).equals(theirs.drop_columns(["tokens"]))
    pairs = zip(ours.column("tokens").to_pylist(), theirs.column("tokens").to_pylist(), strict=True)
    different = sum(left != right for one, other in pairs for left, right in zip(one, other, strict=True))
    assert different <= ours.num_rows * 320 // 1000


def test_a_second_run_does_nothing_and_says_so(inline: tuple[JobConfig, JobResult]) -> None:
    config, _ = inline
    before = {info.path: info for info in store_of(config).list(recursive=True)}
    result = run_job(config)
    assert result.progress.shards_before == result.progress.shards > 1
    assert result.progress.shards_done == 0 and result.failures == []
    assert {info.path: info for info in store_of(config).list(recursive=True)} == before


def test_a_run_killed_half_way_ends_equal(inline: tuple[JobConfig, JobResult], place: Place, tmp_path: Path) -> None:
    output = place.new_output()
    # On S3 through a Ray of its own, which must end with its driver.
    executor = {"kind": "ray", "gpus_per_worker": 0} if place.storage else {"kind": "inline"}
    raw = {"input": {"shards": place.shards}, "output": output, "storage": place.storage, "executor": executor}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(merge(SMALL_JOB, raw)))
    config = load_job(file)
    store = store_of(config)
    command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(list(store.list("data"))) < NUM_CLIPS // 2:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    commits, parts = len(list(store.list("_commits"))), len(list(store.list("data")))
    assert commits < inline[1].progress.shards, "it was killed too late"
    result = run_job(job(place.shards, output, storage=place.storage))
    assert not result.failures
    assert result.progress.counters.videos <= NUM_CLIPS - parts, "what was written was done again"
    assert_same(config, inline[0])
