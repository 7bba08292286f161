"""`vidtok status`: what a person sees of a dataset, on a terminal and off it; it takes neither Ray nor torch."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jobs.status
from pipeline.dataset import Dataset
from pipeline.status import StatusReader
from tests.jobs.conftest import Cli
from tests.rows_for_tests import made_rows, rejected_videos
from tests.support import ROOT

HOSTILE = "[bold]x[/nope].tar"


def tell_run(dataset: Dataset, run_id: str, *, silent: float, state: str = "running", **facts: Any) -> None:
    heard = datetime.now(UTC) - timedelta(seconds=silent)
    record = {"run_id": run_id, "state": state, "started": heard.isoformat(), "heartbeat": heard.isoformat(), **facts}
    dataset.store.put(f"_runs/{run_id}.json", json.dumps(record).encode())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = made_rows(tmp_path / "out")
    rejected_videos(made, "x", ["timeout", "timeout"], path=HOSTILE)
    failed = {"shard_id": "s0", "path": "f.tar", "history": ["no route", "still none"]}
    tell_run(made, "dead", silent=90, driver={"host": "far", "pid": 7}, failed=[failed])
    tell_run(made, "bad", silent=9000, state="failed", error="3 of 4 videos rejected")
    return made


def test_plain_lines(vidtok: Cli, dataset: Dataset) -> None:
    done = vidtok("status", dataset.store.root)
    assert done.code == 0 and done.err == "" and "\x1b" not in done.out
    assert "shards  3 of 3 done, 0 in flight, 0 waiting\n" in done.out
    assert "committed  72 rows, 1,728 tokens of 26 videos\n" in done.out
    assert "drivers  none is at work; dead is gone: silent for 1m 3" in done.out
    assert "  dead  gone  far, process 7  1m 3" in done.out
    assert "  bad  failed: 3 of 4 videos rejected  ?  2h 30m ago  0\n" in done.out
    assert f"  timeout  2  {HOSTILE}, 'v0': no\n" in done.out
    assert "Failed" not in done.out, "what is committed has not failed"


def test_a_driver_that_is_gone_is_told_of_until_another_one_came(vidtok: Cli, dataset: Dataset) -> None:
    tell_run(dataset, "later", silent=80, state="ended")
    assert "drivers  none is at work\n" in vidtok("status", dataset.store.root).out


def test_json_is_what_the_reader_says(vidtok: Cli, dataset: Dataset) -> None:
    said = json.loads(vidtok("status", dataset.store.root, "--json").out)
    expected = json.loads(json.dumps(StatusReader(dataset.store).read().to_json()))
    for one in (said, expected):
        one.pop("read_at")
        for run in one["runs"]:
            run.pop("silent_seconds")
    assert said == expected and said["rows"] == 72


def test_a_watch_ends_when_all_is_done(vidtok: Cli, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_run(dataset, "live", silent=1)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            tell_run(dataset, "live", silent=1, state="ended")

    monkeypatch.setattr(jobs.status.time, "sleep", pause)
    done = vidtok("status", dataset.store.root, "--watch", "--interval", 3, "--json")
    states = [[run["state"] for run in json.loads(line)["runs"]][-1] for line in done.out.splitlines()]
    assert (states, pauses) == (["running", "running", "ended"], [3.0, 3.0])


def test_an_interrupt_ends_a_watch(vidtok: Cli, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_run(dataset, "live", silent=1)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.status.time, "sleep", interrupt)
    done = vidtok("status", dataset.store.root, "--watch")
    assert done.code == 130 and "1 at work" in done.out


def test_a_terminal_gets_tables(dataset: Dataset) -> None:
    console = Console(record=True, width=120, force_terminal=True, file=io.StringIO())
    console.print(jobs.status._drawn(StatusReader(dataset.store).read()))
    shown = console.export_text()
    assert HOSTILE in shown and "┃ run" in shown and "3 of 3 done" in shown


def test_no_dataset(vidtok: Cli, tmp_path: Path) -> None:
    done = vidtok("status", tmp_path)
    assert done.code == 2 and "there is no dataset" in done.err


def test_it_takes_neither_ray_nor_torch(dataset: Dataset) -> None:
    program = (
        "import sys, jobs.cli\n"
        f"sys.argv = ['vidtok', 'status', {dataset.store.root!r}]\n"
        "try:\n    jobs.cli.main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
