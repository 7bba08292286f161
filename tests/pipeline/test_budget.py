"""Too many rejects stop a job, with the reasons; what a job asks for does not count."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.budget import check_budget, check_failures
from pipeline.config import BudgetConfig
from pipeline.errors import ErrorBudgetExceeded
from pipeline.job import Progress, run_job
from pipeline.progress import Counters
from pipeline.records import Reject, VideoEnd, VideoRef
from tests.jobs_for_tests import dataset_rows, job
from tests.media import gradient_frames, make_video, pack_tar


def counted(*classes: str | None) -> Counters:
    """What a worker counts of videos with these ends, in order."""
    counters = Counters()
    for number, error in enumerate(classes):
        reject = None if error is None else Reject(stage="decode", error=error, message=f"message {number}")
        ref = VideoRef(shard_id="s", source_shard="s.tar", key=f"k{number}", occurrence=0, size_bytes=1)
        counters.count_end(VideoEnd(ref=ref, reject=reject, end=None))
    return counters


BAD, GOOD = "unreadable", None


@pytest.mark.parametrize(
    ("classes", "budget", "stops"),
    [
        ([BAD] * 3, {"rejects_in_a_row": 3}, "3 videos in a row were rejected (budget.rejects_in_a_row)"),
        ([BAD, BAD, GOOD, BAD, BAD], {"rejects_in_a_row": 3}, None),
        ([BAD, "filtered", "too_short", BAD, "timeout"], {"rejects_in_a_row": 3}, "3 videos in a row"),
        (["filtered"] * 9, {"rejects_in_a_row": 3, "share": 0.1, "least_videos": 1}, None),
        ([BAD] * 9, {"rejects_in_a_row": None}, None),
        ([GOOD, BAD, GOOD, BAD], {"share": 0.4, "least_videos": 4}, "2 of 4 videos were rejected, at most 40% may be"),
        ([GOOD, BAD, GOOD, BAD], {"share": 0.5, "least_videos": 4}, None),
        ([GOOD, BAD, BAD], {"share": 0.4, "least_videos": 4}, None),
        ([GOOD, BAD, BAD, BAD], {"share": None, "least_videos": 1}, None),
        ([BAD], {"share": 0.0, "least_videos": 1}, "1 of 1 videos were rejected, at most 0% may be"),
    ],
)
def test_what_stops_a_job(classes: list[str | None], budget: dict[str, Any], stops: str | None) -> None:
    if stops is None:
        check_budget(counted(*classes), BudgetConfig(**budget), "out")
        return
    with pytest.raises(ErrorBudgetExceeded) as caught:
        check_budget(counted(*classes), BudgetConfig(**budget), "out")
    message = str(caught.value)
    assert stops in message and "`vidtok inspect out`" in message
    first = next(number for number, error in enumerate(classes) if error == BAD)
    assert f"{BAD} ({classes.count(BAD)}), such as s.tar, 'k{first}': message {first}" in message


def test_workers_are_added_up() -> None:
    """In a row they are of one worker; in share, of all."""
    both = counted(BAD, BAD) + counted(BAD, GOOD, BAD)
    assert (both.videos, both.rejects["unreadable"], both.rejects_in_a_row) == (5, 4, 2)
    check_budget(both, BudgetConfig(rejects_in_a_row=3, share=0.8, least_videos=1), "out")
    with pytest.raises(ErrorBudgetExceeded):
        check_budget(both, BudgetConfig(share=0.7, least_videos=1), "out")


def test_a_job_that_is_stopped_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    video = make_video(gradient_frames(20))
    for number in range(3):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", video), ("b.mp4", b"no video"), ("c.mp4", b"nor this")])
    clips = {"fps": None, "size": 16}
    config = job(tmp_path / "in", tmp_path / "out", clips=clips, budget={"share": 0.5, "least_videos": 4})
    with pytest.raises(ErrorBudgetExceeded, match=r"videos were rejected, at most 50% may be"):
        run_job(config)
    assert len(list((tmp_path / "out/_commits").iterdir())) < 3
    assert not run_job(job(tmp_path / "in", tmp_path / "out", clips=clips, budget={"share": None})).failures
    assert dataset_rows(config)["source_key"].to_pylist() == ["a", "a"] * 3


@pytest.mark.parametrize(
    ("in_a_row", "given", "allowed", "stops"),
    [(2, 100, 3, False), (3, 100, 3, True), (99, 100, None, False), (29, 29, 3, False), (3, 30, 3, True)],
)
def test_shards_that_fail_one_after_the_other(in_a_row: int, given: int, allowed: int | None, stops: bool) -> None:
    budget = BudgetConfig(failed_shards_in_a_row=allowed)
    with pytest.raises(ErrorBudgetExceeded, match=r"last one a\.tar: no key") if stops else contextlib.nullcontext():
        check_failures(in_a_row, given, budget, "a.tar: no key")


@pytest.mark.parametrize(("limit", "stops"), [(1, True), (2, False)])
def test_a_job_whose_shards_all_fail_is_stopped(tmp_path: Path, limit: int, stops: bool) -> None:
    """As with credentials that have expired; a few shards are all tried."""
    video = make_video(gradient_frames(4))
    for number in range(12):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", video)])
    config = job(
        tmp_path / "in",
        tmp_path / "out",
        clips={"fps": None, "size": 8},
        executor={"max_attempts": 1},
        budget={"failed_shards_in_a_row": limit},
    )

    def spoil(progress: Progress) -> None:
        for path in (tmp_path / "in").iterdir() if progress.shards_failed == 0 else ():
            path.write_bytes(path.read_bytes() + bytes(512))

    if not stops:
        assert len(run_job(config, spoil).failures) == 12
        return
    with pytest.raises(ErrorBudgetExceeded, match=r"1 shards in a row failed .*tar: .*when the input was listed"):
        run_job(config, spoil)
