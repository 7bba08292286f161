"""Folders of video files and manifests become the same rows that a tar of these videos would."""

import contextlib
import functools
import gzip
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.listed_videos
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.job import prepare, run_job
from pipeline.plan import make_plan
from pipeline.rejected import outstanding_rejects
from pipeline.storage import Store, open_store
from pipeline.verify import verify_dataset
from tests.jobs_for_tests import dataset_rows, job, store_of
from tests.media import gradient_frames, make_video

CLIPS = {"fps": None, "size": 16}
SHORT, LONG = make_video(gradient_frames(20)), make_video(gradient_frames(100))


def job_of(given: dict[str, Any], output: Path | str, **changes: Any) -> Any:
    return job(None, output, input={"shards": None, **given}, clips=CLIPS, **changes)


def rows_of(config: Any, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in dataset_rows(config).to_pylist()]


def rejects_of(config: Any) -> dict[str, str]:
    table = Dataset.open(store_of(config)).rejects()
    return {} if table is None else {row["source_key"]: row["error"] for row in table.to_pylist()}


def problems_of(config: Any, source: Path | str) -> list[str]:
    return verify_dataset(Dataset.open(store_of(config)), deep=True, source=open_store(str(source))).problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "a.mp4": SHORT,
        "a.txt": b"The first.",
        "a.jpg": b"a thumbnail, which is no video",
        "deep/b.mp4": LONG,
        "deep/b.json": b'{"title": "The second", "views": 7}',
        "deep/c.d.MKV": make_video(gradient_frames(20), container="matroska"),
        "empty.mp4": b"",
        "notes.txt": b"of no video",
        "torn.mp4": SHORT[:300],
    }.items():
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(content)
    return tmp_path / "videos"


@pytest.mark.parametrize("kind", ["inline", "ray"])
def test_a_folder_of_videos(folder: Path, tmp_path: Path, kind: str) -> None:
    given = {"videos": str(folder), "videos_per_shard": 2}
    config = job_of(given, tmp_path / "out", executor={"kind": kind})
    result = run_job(config)
    assert not result.failures and result.progress.shards == 3
    assert rows_of(config, "source_shard", "source_key", "clip_index", "caption") == [
        (".", "a.mp4", 0, "The first."),
        (".", "a.mp4", 1, "The first."),
        *((".", "deep/b.mp4", index, "The second") for index in range(6)),
        (".", "deep/c.d.MKV", 0, None),
        (".", "deep/c.d.MKV", 1, None),
    ]
    metadata = {json.loads(row)["json"]["views"] for (row,) in rows_of(config, "metadata") if row and "json" in row}
    assert metadata == {7}
    assert rejects_of(config) == {"empty.mp4": "unreadable", "torn.mp4": "unreadable"}
    assert problems_of(config, folder) == []
    # The list is frozen: what comes later is added on purpose only, and what there is stays as it is.
    shutil.copy(folder / "a.mp4", folder / "0.mp4")
    assert run_job(config).progress.shards_done == 0
    before = rows_of(config, "id")
    assert run_job(config, append=True).progress.shards_done == 1
    assert run_job(config, append=True).progress.shards_done == 0
    assert [row for row in rows_of(config, "id") if row in before] == before
    assert sorted({key for (key,) in rows_of(config, "source_key")}) == ["0.mp4", "a.mp4", "deep/b.mp4", "deep/c.d.MKV"]
    assert problems_of(config, folder) == []


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("*.mp4", ["a.mp4", "empty.mp4", "torn.mp4"]),
        ("**/*.mp4", ["a.mp4", "deep/b.mp4", "empty.mp4", "torn.mp4"]),
        ("{a,torn}.mp4", ["a.mp4", "torn.mp4"]),
        ("deep/", ["b.mp4", "c.d.MKV"]),
        ("deep/*", ["b.mp4", "c.d.MKV"]),
        ("a.*", ["a.jpg", "a.mp4"]),
    ],
)
def test_patterns_name_video_files(folder: Path, tmp_path: Path, pattern: str, keys: list[str]) -> None:
    plan = make_plan(job_of({"videos": f"{folder}/{pattern}"}, tmp_path / "out"))
    prepare(plan)
    (path,) = plan.lists
    listed = pq.read_table(tmp_path / "out" / path)
    assert listed["key"].to_pylist() == keys
    beside = dict(zip(keys, listed["beside"].to_pylist(), strict=True))
    assert beside.get("a.mp4", [("txt", "a.txt")]) == [("txt", "a.txt")]


def test_files_of_any_name(folder: Path, tmp_path: Path) -> None:
    for name in (b"caf\xe9.mp4", b"new\nline.mp4", "\u65e5\u672c #1?.mp4".encode(), b"a [b].mp4"):
        Path(os.fsdecode(bytes(folder) + b"/odd/" + name)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(bytes(folder) + b"/odd/" + name)).write_bytes(SHORT)
    config = job_of({"videos": f"{folder}/odd"}, tmp_path / "out")
    assert not run_job(config).failures
    keys = {key for (key,) in rows_of(config, "source_key")}
    assert keys == {"new\nline.mp4", "\u65e5\u672c #1?.mp4", "a [b].mp4"}
    assert rejects_of(config) == {"caf\\udce9.mp4": "invalid"}
    assert problems_of(config, folder) == []


def test_a_pattern_that_names_no_video(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input\.videos: nothing matches .*notes\.txt"):
        make_plan(job_of({"videos": f"{folder}/notes.txt"}, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"input\.videos: .*/z\.mp4: there is no such video file"):
        make_plan(job_of({"videos": f"{folder}/z.mp4"}, tmp_path / "out"))


# --- Manifests ---

ROWS: list[dict[str, Any]] = [
    {"url": "deep/b.mp4", "id": "late", "caption": "Late.", "start_seconds": 6.0, "end_seconds": 7.7, "score": 0.5},
    {"url": "a.mp4", "id": "whole", "caption": None, "start_seconds": None, "end_seconds": None, "score": None},
    {"url": "deep/b.mp4", "id": "early", "caption": "Early.", "start_seconds": None, "end_seconds": 1.7, "score": 2},
    {"url": "gone.mp4", "id": "gone", "caption": "", "start_seconds": 1.0, "end_seconds": 2.0, "score": 3},
    {"url": "deep/b.mp4", "id": "beyond", "caption": "", "start_seconds": 90.0, "end_seconds": 95.0, "score": 4},
    {"url": "a.mp4", "id": "empty", "caption": "", "start_seconds": 1.0, "end_seconds": 1.0, "score": 5},
    {"url": "a.mp4", "id": "whole", "caption": "Again.", "start_seconds": None, "end_seconds": None, "score": 6},
    {"url": None, "id": "none", "caption": None, "start_seconds": None, "end_seconds": None, "score": 7},
]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "score": float(row["score"] or 0)} for row in rows]), path)
        return path
    if ".jsonl" in path.name:
        text = "\n".join(json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows)
    else:
        comma = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *([("" if v is None else str(v)) for v in row.values()] for row in rows)]
        text = "\ufeff" + "\r\n".join(comma.join(line) for line in lines)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.tsv", "m.jsonl", "m.csv.gz"])
def test_a_manifest(folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_manifest(folder / name, ROWS)
    fetched: list[str] = []
    real = Store.read_if_there

    def read(store: Store, path: str) -> bytes | None:
        if path.endswith(".mp4"):
            fetched.append(path)
        return real(store, path)

    monkeypatch.setattr(Store, "read_if_there", read)
    config = job_of({"manifests": str(manifest), "videos_per_shard": 4}, tmp_path / "out")
    assert not run_job(config).failures
    assert sorted(fetched) == ["a.mp4", "deep/b.mp4"], "once for all its spans; what is not there is not read"
    rows = rows_of(config, "source_shard", "source_key", "caption", "start_seconds", "num_frames", "num_padded_frames")
    assert rows == [
        (name, "early", "Early.", 0.0, 17, 0),
        (name, "late", "Late.", 6.0, 17, 0),
        (name, "whole", None, 0.0, 17, 0),
        (name, "whole", None, pytest.approx(1.7), 17, 14),
        (name, "whole", "Again.", 0.0, 17, 0),
        (name, "whole", "Again.", pytest.approx(1.7), 17, 14),
    ]
    assert len({row_id for (row_id,) in rows_of(config, "id")}) == 6, "of two rows with one id too"
    metadata = [json.loads(text)["json"] for (text,) in rows_of(config, "metadata")]
    assert metadata[0]["url"] == "deep/b.mp4" and float(metadata[0]["score"]) == 2
    rejects = rejects_of(config)
    none = next(key for key in rejects if key in ("none", f"row 8 of {name}"))
    assert rejects == {"gone": "missing", "beyond": "invalid", "empty": "invalid", none: "invalid"}
    assert problems_of(config, folder) == []


def test_rows_that_name_no_video_say_so(folder: Path, tmp_path: Path) -> None:
    (folder / "m.jsonl").write_text(
        '{"clip": "a.mp4", "from": "soon"}\nnonsense\n\n[1]\n{"clip": "a.mp4", "from": -1}\n'
        '{"clip": "a.mp4", "from": 2, "to": "1"}\n{"clip": "odd://host/a.mp4"}\n{"from": 1}\n'
        '{"clip": "http://[bad/a.mp4"}\n{"clip": "a\\u0000.mp4"}\n{"clip": ["a.mp4"]}\n'
        f'{{"clip": "{"x" * 300}.mp4"}}\n{{"clip": "{"y" * 5000}.mp4"}}\n{{"clip": "a.mp4", "from": 1{"0" * 400}}}\n'
        '{"clip": "http://h/a.mp4?Signature=hidden", "from": "http://h/a.mp4?Signature=hidden"}\n'
        '{"clip": "a.mp4?Signature=hidden\n'
        '{"clip": "a.mp4", "id": "good\\ud800", "score": NaN, "nested": {"link": "https://h/t.jpg?sig=hidden"}}\n'
    )
    columns = {"url": "clip", "start_seconds": "from", "end_seconds": "to"}
    config = job_of({"manifests": str(folder / "m.jsonl"), "columns": columns}, tmp_path / "out")
    assert not run_job(config).failures
    table = Dataset.open(store_of(config)).rejects()
    assert table is not None
    messages = sorted(row["message"] for row in table.to_pylist())
    assert table["error"].to_pylist() == ["invalid"] * 15
    for expected in [
        "row 1 of m.jsonl: from is 'soon', expected seconds",
        "row 2 of m.jsonl is no JSON object: Expecting value: line 1 column 1",
        "row 3 of m.jsonl is no JSON object: it is a list",
        "row 4 of m.jsonl: from is -1, expected seconds",
        "row 5 of m.jsonl: the span from 2.0 to 1.0 s is empty",
        "row 7 of m.jsonl: clip is None, expected a URL or a path",
        "odd://host",
        "http://[bad/a.mp4",
        r"row 9 of m.jsonl: clip is 'a\x00.mp4'",
        "row 10 of m.jsonl: clip is ['a.mp4']",
        "File name too long",
        "row 12 of m.jsonl: clip is 'yyy",
        "row 13 of m.jsonl: from is 1000",
        "row 14 of m.jsonl: from is 'http://h/a.mp4', expected seconds",
        "row 15 of m.jsonl is no JSON object: Invalid control character",
    ]:
        assert [message for message in messages if expected in message], (expected, messages)
    # One bad row costs itself alone, and what signs a link stands nowhere.
    (key, metadata), *_ = rows_of(config, "source_key", "metadata")
    assert key == "good\\ud800"
    assert json.loads(metadata)["json"] == {"url": "a.mp4", "score": None, "nested": {"link": "https://h/t.jpg"}}
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert "hidden" not in pq.read_table(path).to_pandas().to_string(max_colwidth=None), path
    (folder / "none.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"input\.manifests: .*none\.jsonl: there is no row"):
        make_plan(job_of({"manifests": str(folder / "none.jsonl")}, tmp_path / "other"))
    # Told before anything is written: a manifest without URLs at all, and a file that is none.
    (folder / "x.csv").write_text("path,id\na.mp4,1\n")
    with pytest.raises(
        ConfigError, match=r"x\.csv: there is no column 'url' \(there are path, id\); input\.columns\.url"
    ):
        make_plan(job_of({"manifests": str(folder / "x.csv")}, tmp_path / "other"))
    (folder / "x.parquet").write_text("path,id\na.mp4,1\n")
    whole = gzip.compress(b"url\na.mp4\n")
    (folder / "x.csv.gz").write_bytes(whole[:12] + b"\xff" * 8 + whole[20:])
    for name in ("x.parquet", "x.csv.gz"):
        with pytest.raises(ConfigError, match=rf"input\.manifests: .*{name}: cannot be read"):
            make_plan(job_of({"manifests": str(folder / name)}, tmp_path / "other"))


def test_rows_that_come_later_are_added_on_purpose(folder: Path, tmp_path: Path) -> None:
    manifest = write_manifest(folder / "m.csv", ROWS[:3])
    config = job_of({"manifests": str(manifest), "videos_per_shard": 4}, tmp_path / "out")
    run_job(config)
    ids = rows_of(config, "id")
    write_manifest(folder / "m.csv", [ROWS[6], *ROWS[:2], {**ROWS[2], "id": "new"}])
    assert run_job(config).progress.shards_done == 0
    assert run_job(config, append=True).progress.shards_done == 1
    # The second row of the same id and span is another one; the first was there.
    added = [row for row in rows_of(config, "source_key", "id") if (row[1],) not in ids]
    assert sorted(key for key, _ in added) == ["new", "whole", "whole"], "of a video of two clips"
    assert run_job(config, append=True).progress.shards_done == 0
    with pytest.raises(ConfigError, match=r"input\.videos: .* was begun with input\.manifests"):
        run_job(job_of({"videos": str(folder)}, tmp_path / "out"))


def test_a_run_that_broke_off_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the spans of one video; and rejects are tried again without fetching the rest."""
    rows = [{"url": "deep/b.mp4", "id": f"s{n}", "start_seconds": n, "end_seconds": n + 1} for n in range(6)]
    rows.insert(3, {"url": "a.mp4", "id": "a"})
    rows.append({"url": "late.mp4", "id": "late"})
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole = job_of({"manifests": str(folder / "m.jsonl")}, tmp_path / "whole")
    run_job(whole)
    config = job_of({"manifests": str(folder / "m.jsonl")}, tmp_path / "out")
    real, puts = Store.put_if_absent, []

    def put(store: Store, path: str, data: bytes) -> bool:
        puts.append(path)
        if path.endswith("-p002.parquet"):
            raise KeyboardInterrupt
        return real(store, path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "put_if_absent", put)
        run_job(config)
    assert not run_job(config).failures
    assert dataset_rows(config).equals(dataset_rows(whole))
    assert rejects_of(config) == {"late": "missing"}
    assert problems_of(config, folder) == []
    # The file that was missing comes.
    from jobs.upkeep import retry_rejects

    (folder / "late.mp4").write_bytes(SHORT)
    fetched: list[str] = []
    get = pipeline.listed_videos.VideoFetcher.video
    monkeypatch.setattr(
        pipeline.listed_videos.VideoFetcher,
        "video",
        lambda self, listed: fetched.append(listed.key) or get(self, listed),
    )
    result, count = retry_rejects(config, ["missing"], lambda _: None)
    assert (not result.failures, count, fetched) == (True, 1, ["late"])
    assert outstanding_rejects(Dataset.open(store_of(config))) == {}
    assert problems_of(config, folder) == []


def test_a_path_through_a_file_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "m.csv").write_text("url\na.mp4/b.mp4\na.mp4\n")
    config = job_of({"manifests": str(folder / "m.csv")}, tmp_path / "out")
    assert not run_job(config).failures
    assert rejects_of(config) == {"a.mp4/b.mp4": "missing"}


def test_thousands_of_spans_of_one_video(folder: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"deep/b.mp4,s{n},{n % 97 / 10},{n % 97 / 10 + 0.1}" for n in range(1200))
    (folder / "m.csv").write_text(f"url,id,start_seconds,end_seconds\n{rows}\n")
    config = job_of({"manifests": str(folder / "m.csv")}, tmp_path / "out", rows={"part_bytes": 2**20})
    assert not run_job(config).failures
    assert sorted(key for (key,) in rows_of(config, "source_key")) == sorted(f"s{n}" for n in range(1200))
    assert rejects_of(config) == {}


def test_a_list_that_is_lost_is_told(folder: Path, tmp_path: Path) -> None:
    config = job_of({"videos": f"{folder}/a.mp4"}, tmp_path / "out")
    run_job(config)
    (path,) = (tmp_path / "out/inputs").glob("videos-*")
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        spoil()
        problems = problems_of(config, folder)
        assert any("the list of the videos of videos-00000-" in problem for problem in problems), problems
        assert any("its source cannot be read" in problem for problem in problems), problems


# --- From the web, and elsewhere ---


class _Server(http.server.ThreadingHTTPServer):
    asked: list[str]


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[_Server]:
    """Serves a folder to those who sign; what begins with `busy` and `secret` it does not give."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            path, _, query = self.path.partition("?")
            server.asked.append(f"{self.command} {self.path}")
            if path.startswith("/signed") and "Signature=right" not in query:
                self.send_error(403)
                return None
            if path.startswith("/busy"):
                self.send_error(503)
                return None
            if "/v" in path:
                self.path = f"/{query.split('&')[0].split('=')[1]}.mp4"
            return super().send_head()

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_videos_of_the_web(folder: Path, tmp_path: Path) -> None:
    """Signed links work, and stand nowhere in the dataset; a server that fails costs its videos alone."""
    (folder / "signed.mp4").write_bytes(SHORT)
    with web_server(folder) as server:
        host = f"http://127.0.0.1:{server.server_port}"

        def write(signature: str) -> None:
            rows = [
                {"url": f"{host}/deep/b.mp4", "start_seconds": 1, "end_seconds": 2},
                {"url": f"{host.upper()}/deep/b.mp4", "start_seconds": 4, "end_seconds": 5.5},
                {"url": f"{host}/signed.mp4?X-Amz-Date=1&Signature={signature}"},
                {"url": f"{host}/v?id=a&sig={signature}"},
                {"url": f"{host}/v?id=torn&sig={signature}"},
                {"url": f"{host}/none.mp4"},
                {"url": f"{host}/busy.mp4"},
                {"url": "http://127.0.0.1:9/dead.mp4"},
                {"url": "ftp://127.0.0.1:9/dead.mp4"},
            ]
            (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))

        write("wrong")
        manifest = {"manifests": str(tmp_path / "m.jsonl")}
        config = job_of(manifest, tmp_path / "out", storage={"input": {"retry_seconds": 0}})
        assert not run_job(config).failures
        rejects = {key.removeprefix(host): error for key, error in rejects_of(config).items()}
        torn = next(key for key, error in rejects.items() if error == "unreadable")
        assert rejects == {
            "/signed.mp4": "unreachable",
            torn: "unreadable",
            "/none.mp4": "missing",
            "/busy.mp4": "unreachable",
            "http://127.0.0.1:9/dead.mp4": "unreachable",
            "ftp://127.0.0.1:9/dead.mp4": "unreachable",
        }
        keys = [key.removeprefix(host) for (key,) in rows_of(config, "source_key")]
        assert keys[:2] == ["/deep/b.mp4#t=1,2", "/deep/b.mp4#t=4,5.5"]
        assert keys[2].startswith("/v?query=") and torn.startswith("/v?query=") and keys[2] != torn
        assert sum("/deep/b.mp4" in line and line.startswith("GET") for line in server.asked) == 1
        # Signed anew, it is the same video.
        from jobs.upkeep import retry_rejects

        write("right")
        _, count = retry_rejects(config, ["unreachable"], lambda _: None)
        assert count == 4
        assert (f"{host}/signed.mp4",) in rows_of(config, "source_key")
        assert problems_of(config, tmp_path) == []
        secrets = [b"Signature=", b"sig=", b"X-Amz-Date"]
        for path in (tmp_path / "out").rglob("*"):
            if path.is_file():
                stored = pq.read_table(path).to_pandas().to_string().encode() if path.suffix == ".parquet" else b""
                assert not [word for word in secrets if word in path.read_bytes() + stored], path


def test_a_manifest_on_s3_names_videos_beside_it_and_elsewhere(
    folder: Path, tmp_path: Path, s3_endpoint: str, bucket: str
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.put_object(Bucket=bucket, Key="set/lists/m.csv", Body=b"url\n../a.mp4\nb.mp4\ns3://corpus/else/c.mp4\n")
    for key in ("set/a.mp4", "set/lists/b.mp4", "else/c.mp4"):
        client.put_object(Bucket=bucket, Key=key, Body=SHORT)
    side = {"endpoint_url": s3_endpoint}
    config = job_of(
        {"manifests": f"s3://{bucket}/set/lists/*.csv"},
        f"s3://{bucket}/listed-out",
        storage={"input": side, "output": side},
    )
    assert not run_job(config).failures
    assert sorted({key for (key,) in rows_of(config, "source_key")}) == [
        *("../a.mp4", "b.mp4", f"s3://{bucket}/else/c.mp4")
    ]


def test_the_loser_of_a_race_says_what_it_did_not_add(folder: Path, tmp_path: Path, caplog: Any) -> None:
    config = job_of({"videos": f"{folder}/a.mp4"}, tmp_path / "out")
    more = job_of({"videos": f"{folder}/*.mp4"}, tmp_path / "out")
    late = make_plan(more)  # found more, and comes second
    run_job(config)
    assert len(prepare(late)) == 1 and "another run added videos meanwhile; `vidtok tokenize --append`" in caplog.text
    assert run_job(more, append=True).progress.shards_done == 1
    assert problems_of(more, folder) == []


def test_members_over_the_limit_are_not_fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "large.mp4").open("wb") as file:
        os.truncate(file.fileno(), 2**31)
    read: list[str] = []
    real = Store.read_if_there
    monkeypatch.setattr(Store, "read_if_there", lambda store, path: read.append(path) or real(store, path))
    config = job_of({"videos": f"{folder}/{{a,large}}.mp4"}, tmp_path / "out", limits={"video_bytes": 2**20})
    run_job(config)
    assert rejects_of(config) == {"large.mp4": "limit"} and "large.mp4" not in read
    write_manifest(folder / "m.csv", [{"url": "large.mp4", "id": "x"}])
    config = job_of({"manifests": str(folder / "m.csv")}, tmp_path / "out2", limits={"video_bytes": 2**20})
    run_job(config)
    assert rejects_of(config) == {"x": "limit"} and "large.mp4" not in read
