"""What a person sees: exit codes, messages that name the thing, never a traceback."""

import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

import pipeline.job
from jobs.display import ProgressDisplay, human_bytes, human_seconds
from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.job import Progress, prepare, run_job
from pipeline.job_file import parse_job
from pipeline.parts import describe_part
from pipeline.plan import make_plan
from pipeline.progress import Counters
from pipeline.storage import open_store
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import SMALL_JOB, dataset_rows, merge, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT
from vidtok_model import CARRIED, MODELS

HOSTILE = "[bold]x[/nope] :smile: [red]"
TINY = merge(SMALL_JOB, {"clips": {"fps": None, "size": 32}})


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job file for the videos in tmp_path/in, which gives tmp_path/out."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "job.yaml"
        raw = merge(TINY, {"input": {"shards": f"{tmp_path}/in"}, "output": f"{tmp_path}/out"})
        path.write_text(yaml.safe_dump(merge(raw, changes)))
        return path

    return write


@pytest.fixture(scope="module")
def good_video() -> bytes:
    return make_video(gradient_frames(20), fps=10)


@pytest.fixture
def two_shards(tmp_path: Path, good_video: bytes) -> Path:
    for number in range(2):
        pack_tar(tmp_path / f"in/{number}.tar", [(f"v{number}.mp4", good_video)])
    return tmp_path / "in"


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory, good_video: bytes) -> JobConfig:
    """A finished dataset of all that can be wrong with an input."""
    folder = tmp_path_factory.mktemp("awkward") / "in"
    pack_tar(
        folder / "0.tar",
        [
            ("good.mp4", good_video),
            ("good.txt", HOSTILE),
            ("unreadable[/x].mp4", b"\0no video [Errno 1]"),
            ("cut.mp4", good_video[: len(good_video) // 2]),
            ("zero.mp4", b""),
            ("text.txt", "no video at all"),
            ("picture.jpg", b"\xff\xd8\xff\xe0\0\0"),
            ("last.mp4", good_video),
        ],
    )
    pack_tar(folder / "1-empty.tar", [])
    whole = pack_tar(folder / "2-truncated.tar", [("a.mp4", good_video), ("b.mp4", good_video)]).read_bytes()
    (folder / "2-truncated.tar").write_bytes(whole[: 512 + 2 * len(good_video)])
    (folder / "3-zero.tar").touch()
    pack_tar(folder / "4.tar", [("c.mp4", good_video)])
    config = parse_job(merge(TINY, {"input": {"shards": str(folder)}, "output": str(folder.parent / "out")}))
    assert not run_job(config).failures
    return config


INPUT_VIDEOS = {"0": 7, "1-empty": 1, "2-truncated": 2, "3-zero": 1, "4": 1}


def test_rows_and_rejects_account_for_every_video(awkward: JobConfig) -> None:
    dataset = Dataset.open(store_of(awkward))
    rows, rejects = dataset_rows(awkward), dataset.rejects()
    with_rows = set(zip(rows["source_shard"].to_pylist(), rows["source_key"].to_pylist(), strict=True))
    rejected = [(row["source_shard"], row["source_key"], row["error"]) for row in rejects.to_pylist()]
    assert with_rows == {("0.tar", "good"), ("0.tar", "last"), ("2-truncated.tar", "a"), ("4.tar", "c")}
    assert sorted(rejected) == [
        ("0.tar", "cut", "unreadable"),
        ("0.tar", "picture", "unreadable"),
        ("0.tar", "text", "no_video"),
        ("0.tar", "unreadable[/x]", "unreadable"),
        ("0.tar", "zero", "unreadable"),
        ("1-empty.tar", "", "empty"),
        ("2-truncated.tar", "b", "truncated"),
        ("3-zero.tar", "", "empty"),
    ]


def test_commit_footers_and_rejects_agree(awkward: JobConfig) -> None:
    dataset = Dataset.open(store_of(awkward))
    commits = list(dataset.commits())
    assert {commit["source"]["path"].removesuffix(".tar"): commit["videos"] for commit in commits} == INPUT_VIDEOS
    for commit in commits:
        parts = [describe_part(part["path"], dataset.store.read(part["path"])) for part in commit["parts"]]
        assert [{"rows": part.num_rows, "size_bytes": part.size_bytes, "sha256": part.sha256} for part in parts] == [
            {name: part[name] for name in ("rows", "size_bytes", "sha256")} for part in commit["parts"]
        ]
        in_footers = [reject for part in parts for reject in part.footer["rejects"]]
        stored = commit["rejects"]
        table = pq.read_table(io.BytesIO(dataset.store.read(stored["path"]))).to_pylist() if stored else []
        assert in_footers == table
        assert len(table) == (stored["rows"] if stored else 0)
        assert commit["rejects_by_class"] == Counter(reject["error"] for reject in table)
        assert sum(part.keys.total() for part in parts) == commit["videos"]
        assert commit["tokens"] == sum(part.num_tokens for part in parts) == commit["rows"] * 5 * 4 * 4


def test_inspect(vidtok: Cli, awkward: JobConfig) -> None:
    shown = vidtok("inspect", awkward.output)
    assert shown.code == 0
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in shown.out.splitlines()}
    assert lines["shards"] == "shards 5 of 5 committed"
    assert lines["videos"].startswith("videos 12 (")
    assert lines["rows"].startswith("rows 8 in ") and lines["tokens"] == "tokens 640"
    assert "RANDOM" in lines["weights"]
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.out.splitlines() if "│" in line]
    rejects = {row[1]: row for row in table if len(row) == 5}
    assert {error: int(row[0]) for error, row in rejects.items()} == {
        "unreadable": 4,
        "no_video": 1,
        "empty": 2,
        "truncated": 1,
    }
    assert rejects["unreadable"][2:4] == ["probe", "0.tar: unreadable[/x]"]
    rows = [row for row in table if len(row) == 7]
    first = dataset_rows(awkward).slice(0, 5).to_pylist()
    assert [row[0] for row in rows] == [row["id"] for row in first], "ids must come out whole"
    assert rows[0][1:] == ["good", "0", "0.00", "17", "5x4x4", HOSTILE], "a caption is shown as it is"
    assert (
        len([line for line in vidtok("inspect", awkward.output, "--rows", "0").out.splitlines() if "5x4x4" in line])
        == 0
    )


def test_decode(vidtok: Cli, awkward: JobConfig, tmp_path: Path) -> None:
    row = next(row for row in dataset_rows(awkward).to_pylist() if row["num_padded_frames"])
    assert (row["num_frames"], row["num_padded_frames"]) == (17, 14)
    for name, expected in ((row["id"], 3), (dataset_rows(awkward)["id"][0].as_py(), 17)):
        target = tmp_path / "clip"  # no extension that says what it is to be
        done = vidtok("decode", awkward.output, "--id", name, "--out", target)
        assert (done.code, done.out.split()[:3]) == (0, ["Wrote", str(expected), "frames"])
        with av.open(str(target)) as video:
            frames = list(video.decode(video=0))
        assert "mp4" in video.format.name
        assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(expected)], abs=1e-3)
        assert {(frame.width, frame.height) for frame in frames} == {(32, 32)}
        assert np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).std() > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--id": "nope"}, "no committed row has the id 'nope'"),
        ({"--out": "/nowhere/clip.mp4"}, "--out /nowhere/clip.mp4: cannot be written: No such file"),
        ({"--out": "/tmp"}, "--out /tmp: cannot be written: Is a directory"),
        ({"--device": "abacus"}, "--device abacus: "),
        ({"--device": "cuda:99"}, "--device cuda:99: "),
    ],
)
def test_decode_refused(vidtok: Cli, awkward: JobConfig, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    options = {"--id": dataset_rows(awkward)["id"][0].as_py(), "--out": str(tmp_path / "x.mp4"), **changes}
    done = vidtok("decode", awkward.output, *[word for option in options.items() for word in option])
    assert done.code == 2 and message in done.err


def test_done_then_nothing_to_do(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path) -> None:
    path = job_file()
    first = vidtok("tokenize", path)
    assert first.code == 0 and "Committed 2 of 2 shards" in first.out
    assert "Those of this run hold 2 videos, 4 clips, 320 tokens, 0 rejects" in first.out
    assert "RANDOM WEIGHTS" in first.err
    again = vidtok("tokenize", path)
    assert again.code == 0 and again.out.startswith("Nothing to do: all 2 shards are committed in ")
    # Whatever enters no row may change.
    more = vidtok("tokenize", path, "--set", "executor.batch_size=4", "--set", "rows.part_bytes=99")
    assert more.code == 0 and "Nothing to do" in more.out


def test_shares_hold_each_shard_once(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path) -> None:
    path = job_file()
    root = yaml.safe_load(path.read_text())["output"]
    for number, committed, said in ((1, 1, "1 of 1 shards"), (1, 1, "all 1 shards"), (0, 2, "1 of 1 shards")):
        done = vidtok("tokenize", path, "--share", f"{number}/2")
        assert done.code == 0 and said in done.out
        assert len(list(Dataset.open(open_store(root)).commits())) == committed
    assert "Nothing to do: all 2 shards" in vidtok("tokenize", path).out


@pytest.mark.parametrize("share", ["2/2", "1", "a/b", "-1/2", "1/0", ""])
def test_a_share_that_is_none(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, share: str) -> None:
    refused = vidtok("tokenize", job_file(), f"--share={share}")
    assert refused.code == 2 and f"--share {share}: expected K/N" in refused.err


def test_new_tars_are_added_on_purpose_only(
    vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, good_video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run lists no input, and the help says so."""
    path = job_file()
    vidtok("tokenize", path)
    pack_tar(two_shards / "2.tar", [("v2.mp4", good_video)])
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.plan.list_shards", None)
        assert "Nothing to do: all 2 shards" in vidtok("tokenize", path).out
    assert "without it no later run looks for any" in " ".join(
        vidtok("tokenize", "--help").out.replace("│", "").split()
    )
    assert "Committed 3 of 3 shards (2 of them earlier)" in vidtok("tokenize", path, "--append").out


def test_a_failed_shard_is_exit_1_and_the_others_are_done(
    vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, good_video: bytes
) -> None:
    path = job_file(executor={"max_attempts": 2})
    prepare(make_plan(parse_job(yaml.safe_load(path.read_text()))))
    tar = two_shards / "0.tar"
    original = tar.read_bytes()
    pack_tar(tar, [("v0.mp4", good_video * 20)])
    failed = vidtok("tokenize", path)
    assert failed.code == 1 and "Committed 1 of 2 shards" in failed.out
    said = " ".join(failed.err.split())
    assert f"failed 0.tar after 2 attempts: 0.tar: {tar.stat().st_size} bytes, but {len(original)} when" in said
    tar.write_bytes(original)
    mended = vidtok("tokenize", path)
    assert mended.code == 0 and "Committed 2 of 2 shards (1 of them earlier)" in mended.out


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"clips": {"fsp": 3}, "executor": {"worker": 1}}, ["clips.fsp: ", "fps?", "executor.worker: "]),
        (
            {"model": {"name": "vidtok_fsq_causal_488_3276"}},
            ["unknown model", "did you mean vidtok_fsq_causal_488_32768"],
        ),
        ({"input": {"shards": "/none/{0..1}.tar"}}, ["/none/0.tar: there is no such tar", "/none/1.tar"]),
        ({"input": {"shards": "/none/*.tar"}}, ["nothing matches /none/*.tar"]),
        ({"output": "/dev/null/out"}, ["/dev/null/out"]),
        ({"output": "/proc/out"}, ["/proc/out"]),
        ({"output": "s5://bucket/out"}, ["s5://bucket/out: this store cannot be opened"]),
    ],
)
def test_a_job_that_cannot_run_is_exit_2(
    vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, changes: dict[str, Any], messages: list[str]
) -> None:
    done = vidtok("tokenize", job_file(**changes))
    assert done.code == 2 and done.out == ""
    assert [message for message in messages if message not in done.err] == [], done.err
    assert not (two_shards.parent / "out").exists(), "nothing is written"


def test_a_missing_checkpoint_is_exit_2(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path) -> None:
    model = "model={name: vidtok_fsq_causal_488_32768, checkpoint: /none.ckpt}"
    done = vidtok("tokenize", job_file(), "--set", model)
    assert (done.code, done.err) == (2, "error model.checkpoint: /none.ckpt: there is no such file\n")
    assert not (two_shards.parent / "out").exists(), "nothing is written"


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_missing_bucket_is_exit_2(
    vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, s3_endpoint: str, side: str
) -> None:
    url: Any = "s3://nobucket/x/" if side == "output" else {"shards": "s3://nobucket/x/*.tar"}
    done = vidtok("tokenize", job_file(storage={side: {"endpoint_url": s3_endpoint}}, **{side: url}))
    assert done.code == 2 and "s3://nobucket/" in done.err and "bucket does not exist" in done.err


def test_another_dataset_in_the_output(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path) -> None:
    assert vidtok("tokenize", job_file()).code == 0
    done = vidtok("tokenize", job_file(clips={"size": 64, "tail": "drop"}, model={"seed": 1}))
    assert done.code == 2 and "holds another dataset" in done.err
    assert done.err.splitlines()[-3:] == [
        "  clips.size: the dataset has 32, the job wants 64",
        "  clips.tail: the dataset has 'pad', the job wants 'drop'",
        "  model.weights: the dataset has 'seed 0', the job wants 'seed 1'",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset.json", b"{}", "dataset.json: is not a dataset description of ours"),
        ("dataset.json", b"\xff", "dataset.json: is not a dataset description of ours"),
        ("inputs/00000.parquet", b"garbage", "inputs/00000.parquet: is not a list of shards of ours"),
    ],
)
def test_garbage_in_the_output(
    vidtok: Cli, job_file: Callable[..., Path], two_shards: Path, name: str, content: bytes, message: str
) -> None:
    output = two_shards.parent / "out"
    open_store(str(output)).put_if_absent(name, content)
    done = vidtok("tokenize", job_file())
    assert done.code == 2 and message in done.err


def test_a_garbage_commit_is_told(vidtok: Cli, job_file: Callable[..., Path], two_shards: Path) -> None:
    output = two_shards.parent / "out"
    vidtok("tokenize", job_file())
    commit = next((output / "_commits").iterdir())
    commit.write_bytes(b"{")
    shutil.rmtree(output / "_snapshots")
    done = vidtok("inspect", output)
    assert done.code == 2 and f"_commits/{commit.name}: is not a commit of ours" in done.err


def test_no_dataset(vidtok: Cli, tmp_path: Path) -> None:
    for command in (["inspect"], ["decode", "--id", "x", "--out", "y"]):
        done = vidtok(*command, tmp_path / "[/none]")
        assert done.code == 2 and f"{tmp_path}/[/none]: there is no dataset" in done.err


def test_an_interrupt_says_how_to_go_on(
    vidtok: Cli, job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.job, "run_job", interrupted)
    done = vidtok("tokenize", job_file())
    assert done.code == 130 and "run the same command again to go on" in done.err


def test_models_are_listed_uncut(vidtok: Cli) -> None:
    lines = vidtok("models").out.splitlines()
    names = {cell.strip() for line in lines for cell in line.split("│")[1:2]}
    assert names == {*MODELS, *CARRIED} and len(names) == 25
    row = next(line for line in lines if "vidtok_fsq_causal_41616_262144 " in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        "FSQ tokens",
        "yes",
        "4 x 16 x 16",
        "6",
        "262,144",
        "17",
        "published",
    ]


def test_config(vidtok: Cli, job_file: Callable[..., Path]) -> None:
    schema = json.loads(vidtok("config", "--schema").out)
    assert {"input", "output", "model"} == set(schema["required"])
    shown = json.loads(vidtok("config", job_file(), "--set", "executor.num_workers=3").out)
    assert parse_job(shown).model_dump() == parse_job(shown | {"storage": {}}).model_dump()
    assert (shown["executor"]["num_workers"], shown["executor"]["max_attempts"]) == (3, 3)
    assert (shown["clips"]["size"], shown["clips"]["tail"], shown["rows"]["part_bytes"]) == (32, "pad", 1)
    for arguments in ([], [job_file(), "--schema"]):
        refused = vidtok("config", *arguments)
        assert refused.code == 2 and "either a job file or --schema" in refused.err


def test_the_module_runs_as_a_program(job_file: Callable[..., Path], two_shards: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "tokenize", str(job_file(clips={"size": 33}))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "error clips.size: 33 is not a multiple of 8, the spatial factor of vidtok_fsq_causal_488_32768\n"
    )


def progress(done: int) -> Progress:
    counters = Counters(videos=1200 * done, clips=5, tokens=1500, bytes_read=50 * done, rejects=Counter(unreadable=2))
    return Progress(
        shards=4, shards_before=1, shards_done=done, bytes_left=200 - 100 * done, bytes_total=200, counters=counters
    )


def test_progress_off_a_terminal_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("jobs.display.time", SimpleNamespace(monotonic=lambda: next(clock)))
    sink = io.StringIO()
    with ProgressDisplay(Console(file=sink, width=200)) as display:
        for done in (1, 1, 1, 1, 1):
            display(progress(done))
    lines = sink.getvalue().splitlines()
    assert "\x1b" not in sink.getvalue() and 1 <= len(lines) < 5, "one line in ten seconds"
    assert "shards 2/4" in lines[0] and "videos 1,200" in lines[0] and "rejects 2" in lines[0]
    assert "ETA" in lines[0]


def test_progress_on_a_terminal_is_drawn() -> None:
    sink = io.StringIO()
    with ProgressDisplay(Console(file=sink, width=120, force_terminal=True, _environ={"TERM": "xterm"})) as display:
        display(Progress(shards=0, shards_before=0))  # nothing is known yet
        display(progress(1))
    assert "\x1b[" in sink.getvalue() and "2/4" in sink.getvalue() and "1,200" in sink.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (3599.7, "1h 00m"), (7620, "2h 07m")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert human_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**50, "1024.0 TiB")],
)
def test_sizes(size: float, shown: str) -> None:
    assert human_bytes(size) == shown
