"""Part files: their columns, their encodings, and that one of them alone can be decoded."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.errors import CommitConflict
from pipeline.job import run_job
from pipeline.parts import FOOTER_KEY, describe_part, part_bytes, rejects_bytes, table_bytes
from pipeline.reconstruct import decode_row, load_decoder
from pipeline.records import Reject
from pipeline.rows import build_rows, row_schema
from tests.jobs_for_tests import job, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.records_for_tests import batch_of, clip_of, end_of, random_latents, tokens_of

COLUMNS = {
    "id": "string",
    "source_shard": "string",
    "source_key": "string",
    "clip_index": "int32",
    "start_seconds": "double",
    "duration_seconds": "double",
    "frame_seconds": "list<float>",
    "num_frames": "int32",
    "num_padded_frames": "int32",
    "width": "int32",
    "height": "int32",
    "source_width": "int32",
    "source_height": "int32",
    "source_fps": "double",
    "source_codec": "string",
    "flags": "list<string>",
    "caption": "string",
    "metadata": "string",
    "latent_t": "int32",
    "latent_h": "int32",
    "latent_w": "int32",
}
PAYLOADS = {
    "fsq": {"tokens": "list<int32 not null>"},
    "kl": {"latents": "binary"},
    "kl_logvar": {"latents": "binary", "logvar": "binary"},
}
FOOTER = {
    "attempt_id": "a" * 32,
    "fingerprint": "f",
    "source": {},
    "range": {"start": {"sample": 0, "offset": 0}, "end": {"sample": 2, "offset": 9}},
    "videos": 2,
    "video_bytes": 200,
    "rejects": [],
    "statistics": None,
}


def file_of(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(data))


def small_part(kind: str) -> bytes:
    """A part of three clips of two videos."""
    logvar = kind == "kl_logvar"
    clips = [clip_of("a"), clip_of("a", index=1), clip_of("b", text={"txt": "é"})]
    encoded = [tokens_of(2, 2, 2) if kind == "fsq" else random_latents(number, 4, 2, 2, 2) for number in range(3)]
    batch = batch_of(*clips, ends=[end_of(clips[0]), end_of(clips[2], sample=2)])
    (part,) = build_rows([(batch, encoded)], logvar=logvar)
    return part_bytes(part, row_schema(is_discrete=kind == "fsq", logvar=logvar), FOOTER)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_columns_and_types(kind: str) -> None:
    with file_of(small_part(kind)) as file:
        schema = file.schema_arrow
        types = {field.name: str(field.type).replace("element: ", "").replace("item: ", "") for field in schema}
        assert list(types.items()) == list({**COLUMNS, **PAYLOADS[kind]}.items())
        assert file.read().num_rows == 3


@pytest.mark.parametrize("kind", PAYLOADS)
def test_encodings(kind: str) -> None:
    with file_of(small_part(kind)) as file:
        group = file.metadata.row_group(0)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    for column in PAYLOADS[kind]:
        chunk = chunks["tokens.list.element" if column == "tokens" else column]
        assert not chunk.has_dictionary_page and not chunk.is_stats_set
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(chunk.encodings)
        assert ("BYTE_STREAM_SPLIT" in chunk.encodings) == (column == "tokens")
    assert chunks["source_key"].has_dictionary_page
    assert (chunks["id"].statistics.min, chunks["clip_index"].statistics.max) == (
        min(file_of(small_part(kind)).read().column("id").to_pylist()),
        1,
    )


@pytest.mark.parametrize("kind", PAYLOADS)
def test_equal_rows_are_equal_bytes(kind: str) -> None:
    assert small_part(kind) == small_part(kind)


def test_the_footer_comes_back() -> None:
    data = small_part("fsq")
    part = describe_part("data/x.parquet", data)
    assert dict(part.footer) == FOOTER
    assert (part.num_rows, part.num_tokens, part.size_bytes) == (3, 24, len(data))
    assert part.sha256 == hashlib.sha256(data).hexdigest()
    assert part.keys == {"a": 1, "b": 1}, "videos, not clips"
    assert (part.start.sample, part.start.offset, part.end.sample, part.end.offset) == (0, 0, 2, 9)


def test_a_part_of_rejects_alone() -> None:
    clip = clip_of("a", occurrence=1)
    end = end_of(clip, reject=Reject(stage="decode", error="unreadable", message="ü"))
    (part,) = build_rows([(batch_of(ends=[end]), [])], logvar=False)
    data = part_bytes(part, row_schema(is_discrete=True, logvar=False), {**FOOTER, "rejects": part.rejects})
    stored = describe_part("p", data)
    assert (stored.num_rows, stored.num_tokens, stored.keys) == (0, 0, {"a": 1})
    table = file_of(rejects_bytes(stored.footer["rejects"])).read()
    assert table.to_pylist() == [
        {
            "source_shard": "s.tar",
            "source_key": "a",
            "occurrence": 1,
            "stage": "decode",
            "error": "unreadable",
            "message": "ü",
            "attempts": 1,
            "size_bytes": 100,
        }
    ]
    assert [str(field.type) for field in table.schema] == [*["string"] * 2, "int32", *["string"] * 3, "int32", "int64"]


def test_row_groups_hold_about_32_megabytes() -> None:
    num_rows, num_tokens = 800, 32_768  # 105 MB
    tokens = pa.ListArray.from_arrays(
        np.arange(0, num_rows * num_tokens + 1, num_tokens, dtype=np.int32),
        np.random.default_rng(0).integers(0, 32_768, num_rows * num_tokens, dtype=np.int32),
    )
    data = table_bytes(pa.table({"id": [str(number) for number in range(num_rows)], "tokens": tokens}))
    with file_of(data) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        assert [group.num_rows for group in groups] == pytest.approx([num_rows * 32 * 2**20 / 105e6] * 3 + [33], abs=3)
        assert file.read().column("tokens").combine_chunks().flatten().equals(tokens.flatten())
    # 15 random bits of 32 are 47%; byte-split, zstd comes near to it.
    assert len(data) < 0.51 * num_rows * num_tokens * 4


def parquet(footer: Any, table: pa.Table | None = None) -> bytes:
    return table_bytes(table if table is not None else pa.table({"id": ["x"]}), footer)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no parquet at all",
        b"PAR1garbagePAR1",
        b"PAR1" + b"\xff" * 100 + (50).to_bytes(4, "little") + b"PAR1",
        small_part("fsq")[:-100],
        small_part("fsq")[100:],
        parquet(None),
        parquet([]),
        parquet("text"),
        parquet({"attempt_id": "x"}),
        parquet(FOOTER),
    ],
)
def test_what_is_no_part_of_ours(data: bytes) -> None:
    with pytest.raises(CommitConflict, match=r"data/x-p000\.parquet: a file that is not a part of ours"):
        describe_part("data/x-p000.parquet", data)


@pytest.fixture(scope="module", params=["vidtok_fsq_causal_488_4096", "vidtok_kl_causal_488_4chn"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    folder = tmp_path_factory.mktemp("dataset")
    pack_tar(folder / "in/0.tar", [("a.mp4", make_video(gradient_frames(20))), ("bad.mp4", b"\0")])
    config = job(folder / "in", folder / "out", model={"name": request.param}, clips={"fps": None, "size": 32})
    assert not run_job(config).failures
    return config


def test_one_part_file_alone_can_be_decoded(dataset: JobConfig, tmp_path: Path) -> None:
    """Copied out of its dataset, with nothing but its footer to say what it is."""
    opened = Dataset.open(store_of(dataset))
    (first, *_) = opened.parts()
    lonely = tmp_path / "lonely.parquet"
    lonely.write_bytes(opened.store.read(first))
    footer = json.loads(pq.read_metadata(lonely).metadata[FOOTER_KEY])
    rows = pq.read_table(lonely).to_pylist()
    frames = decode_row(rows[0], load_decoder(footer))
    assert frames.shape == (17, 32, 32, 3) and frames.std() > 0
    assert np.array_equal(frames, decode_row(rows[0], load_decoder(opened.description)))


def test_what_the_footer_says(dataset: JobConfig) -> None:
    opened = Dataset.open(store_of(dataset))
    footers = [describe_part(path, opened.store.read(path)).footer for path in opened.parts()]
    (source,) = {json.dumps(footer["source"]) for footer in footers}
    tar = Path(str(dataset.input.shards), "0.tar")
    assert json.loads(source) == {"path": "0.tar", "size_bytes": tar.stat().st_size, "etag": None}
    for name in ("format_version", "fingerprint", "plan", "model", "versions"):
        assert all(footer[name] == opened.description[name] for footer in footers)
    assert footers[0]["run"] == {"device": "cpu", "threads": 1, "batch_size": 2}
    assert all(len(footer["attempt_id"]) == 32 and int(footer["attempt_id"], 16) for footer in footers)
    # The ranges join, from the tar's beginning to behind its last sample.
    edges = [footer["range"] for footer in footers]
    assert edges[0]["start"] == {"sample": 0, "offset": 0} and edges[-1]["end"]["sample"] == 2
    assert [edge["end"] for edge in edges[:-1]] == [edge["start"] for edge in edges[1:]]
    assert [[reject["source_key"] for reject in footer["rejects"]] for footer in footers] == [[], ["bad"]]
    assert sum(footer["videos"] for footer in footers) == 2
    assert sum(footer["video_bytes"] for footer in footers) == len(make_video(gradient_frames(20))) + 1
    assert (footers[0]["statistics"] is None) == opened.description["model"]["name"].startswith("vidtok_fsq")
