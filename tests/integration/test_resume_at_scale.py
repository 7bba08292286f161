"""Resuming a dataset of 100,000 commits costs a few requests, not one a commit."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.inputs import grow_inputs
from pipeline.job import run_job
from pipeline.plan import make_plan
from pipeline.records import Shard
from pipeline.snapshots import add_to_snapshot, newest_snapshot
from pipeline.storage import open_store
from tests.jobs_for_tests import job, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.servers.proxy import MisbehavingProxy

NUM_COMMITS = [20_000, pytest.param(100_000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=NUM_COMMITS)
def place(
    request: pytest.FixtureRequest, s3_endpoint: str, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, list[Shard]]]:
    """A dataset in which all shards but one are committed, made in the server's memory, and the job that goes on."""
    from moto.s3.models import s3_backends

    folder = tmp_path_factory.mktemp("scale")
    pack_tar(folder / "in/last.tar", [("a.mp4", make_video(gradient_frames(20)))])
    with MisbehavingProxy(s3_endpoint) as proxy:
        side = {"endpoint_url": proxy.endpoint}
        root = f"scale{request.param}"
        config = job(folder / "in", f"s3://corpus/{root}", clips={"fps": None, "size": 16}, storage={"output": side})
        plan = make_plan(config)
        store = store_of(config)
        store.put_if_absent("dataset.json", json.dumps(plan.description).encode())
        done = [
            Shard(shard_id=f"shard-{number:06d}-0123456789", path=f"shard-{number:06d}.tar", size_bytes=1, etag=None)
            for number in range(request.param)
        ]
        grow_inputs(store, lambda standing: [] if standing else [*done, *plan.found])
        backend = s3_backends["123456789012"]["aws"]
        for shard in done:
            commit = json.dumps(commit_of(shard)).encode()
            backend.put_object("corpus", f"{root}/_commits/{shard.shard_id}.json", commit)
        yield plan, done


def commit_of(shard: Shard) -> dict[str, Any]:
    empty = {"parts": [], "rejects": None, "rejects_by_class": {}, "statistics": None}
    counts = {"videos": 0, "video_bytes": 0, "rows": 0, "tokens": 0}
    source = {"path": shard.path, "size_bytes": 1, "etag": None}
    return {"shard_id": shard.shard_id, "format_version": 1, "fingerprint": "f", "source": source, **empty, **counts}


def test_resume_over_many_commits(place: tuple[Any, list[Shard]], s3_endpoint: str) -> None:
    """Counted to the run's end: finding what is left reads no commit, and the next snapshot those in none alone."""
    plan, done = place
    root = plan.config.output.removeprefix("s3://corpus/")
    # What a driver leaves that died: the snapshot as it grew, and commits that it had no time to add.
    in_none = 57
    snapshot, begin = newest_snapshot(plan.store), 0
    while begin < len(done) - in_none:
        added = done[begin : min(begin + snapshot.of_a_file, len(done) - in_none)]
        snapshot = add_to_snapshot(plan.store, [commit_of(shard) for shard in added], snapshot)
        begin += len(added)
    assert snapshot.number <= 220
    with MisbehavingProxy(s3_endpoint) as proxy:
        config = plan.config
        output = config.storage.output.model_copy(update={"endpoint_url": proxy.endpoint})
        config = config.model_copy(update={"storage": config.storage.model_copy(update={"output": output})})
        found: list[tuple[float, int]] = []  # when it was known what is left, and the commits that were read by then
        began = time.monotonic()

        def first(progress: Any) -> None:
            if not found:
                assert (progress.shards_before, progress.shards) == (len(done), len(done) + 1)
                found.append((time.monotonic() - began, len(commits_read(proxy))))

        assert run_job(config, first).progress.shards_done == 1
        ours = {f"{root}/_commits/{shard.shard_id}.json" for shard in plan.found}
        assert found[0][0] < 20 and found[0][1] == 0
        assert proxy.requests["LIST"] <= len(done) // 1000 + 1
        in_no_snapshot = [f"{root}/_commits/{shard.shard_id}.json" for shard in done[-in_none:]]
        assert sorted(set(commits_read(proxy)) - ours) == in_no_snapshot
        others = len(proxy.read_paths) - len(commits_read(proxy))
        assert others <= snapshot.number + 20, "the snapshot's files, once each, and the few at the root"
    assert len(newest_snapshot(plan.store).ids) == len(done) + 1


def commits_read(proxy: MisbehavingProxy) -> list[str]:
    return [path.split("corpus/", 1)[1] for path in proxy.read_paths if "/_commits/" in path]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_without_a_snapshot_a_thousand_commits_cost_one_list(place: tuple[Any, list[Shard]], s3_endpoint: str) -> None:
    plan, done = place
    with MisbehavingProxy(s3_endpoint) as proxy:
        store = open_store(plan.config.output, {"endpoint_url": proxy.endpoint})
        names = [f"{shard.shard_id}.json" for shard in done]
        assert [info.path for info in store.present("_commits", names)] == [f"_commits/{name}" for name in names]
        assert proxy.requests == {"LIST": len(done) // 1000}
