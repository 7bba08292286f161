"""What a row says, and which videos give none."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

from pipeline.records import Batch, Clip, EncodedClip, Part, Reject
from pipeline.rows import build_rows, row_id, row_schema
from tests.records_for_tests import batch_of, clip_of, end_of, random_latents, tokens_of


def part_of(batch: Batch, encoded: list[EncodedClip], logvar: bool = False) -> Part:
    (part,) = build_rows([(batch, encoded)], logvar=logvar)
    return part


def timed(clip: Clip, first: float, last: float) -> Clip:
    return dataclasses.replace(clip, frame_seconds=np.linspace(first, last, len(clip.frame_seconds)))


# By hand: printf '["a/s.tar", "k/v", 0, 0, 1600000, 17]' | sha256sum
@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (timed(clip_of("k/v", source_shard="a/s.tar", frames=17), 0, 1.6), "d8a14dd66b310272833b91f389ca20ec"),
        (timed(clip_of("café", occurrence=1, frames=17), 2, 2.25), "fb91d99e06cdabdc9a606781d84800cd"),
    ],
)
def test_ids_never_change(clip: Clip, expected: str) -> None:
    assert row_id(clip) == expected


def test_an_id_follows_from_what_the_clip_is_and_nothing_else() -> None:
    clip = clip_of(index=3)
    others = [
        clip_of("other", index=3),
        clip_of(index=3, source_shard="t.tar"),
        clip_of(index=3, occurrence=1),
        clip_of(index=4),
        clip_of(index=3, padded=1),
        timed(clip, 1.5, 1.900001),
        timed(clip, 1.500001, 1.9),
        dataclasses.replace(clip_of(index=3, frames=9), frame_seconds=np.repeat(clip.frame_seconds, 2)[:9]),
        clip_of("k\n", index=3),
    ]
    ids = [row_id(other) for other in [clip, *others]]
    assert len(set(ids)) == len(ids)
    same = dataclasses.replace(
        clip,
        clip_index=0,
        frames_THWC=np.ones((5, 16, 16, 3), np.uint8),
        flags=(),
        duration_seconds=9.0,
        ref=dataclasses.replace(clip.ref, shard_id="z", size_bytes=5, text={"txt": "t"}),
        frame_seconds=clip.frame_seconds + 1e-8,
    )
    assert row_id(same) == row_id(clip)


def test_a_row_of_tokens() -> None:
    clip = clip_of(index=2, padded=2, text={"txt": " a cat \n", "json": '{"n": 1}'})
    (row,) = part_of(batch_of(clip), [tokens_of(2, 1, 3)]).rows
    assert list(row) == row_schema(is_discrete=True, logvar=False).names
    assert row.pop("tokens").tolist() == [0, 1, 2, 3, 4, 5]
    assert row.pop("frame_seconds").tolist() == pytest.approx([0, 0.1, 0.2, 0.2, 0.2])
    assert json.loads(row.pop("metadata")) == {"txt": " a cat \n", "json": {"n": 1}}
    assert row.pop("id") == row_id(clip)
    assert row == {
        "source_shard": "s.tar",
        "source_key": "k",
        "clip_index": 2,
        "start_seconds": 1.0,
        "duration_seconds": 0.3,
        "num_frames": 5,
        "num_padded_frames": 2,
        "width": 8,
        "height": 8,
        "source_width": 640,
        "source_height": 480,
        "source_fps": 25.0,
        "source_codec": "h264",
        "flags": ["upscaled"],
        "caption": "a cat",
        "latent_t": 2,
        "latent_h": 1,
        "latent_w": 3,
    }


@pytest.mark.parametrize("logvar", [False, True])
def test_a_row_of_latents(logvar: bool) -> None:
    encoded = random_latents(0, 4, 2, 3, 5)
    (row,) = part_of(batch_of(clip_of()), [encoded], logvar).rows
    assert (row["latent_t"], row["latent_h"], row["latent_w"]) == (2, 3, 5)
    assert list(row) == row_schema(is_discrete=False, logvar=logvar).names
    for name, values in (("latents", encoded.latents_CTHW), ("logvar", encoded.logvar_CTHW))[: 1 + logvar]:
        stored = np.frombuffer(row[name], "<f2").reshape(4, 2, 3, 5)
        assert np.array_equal(stored, values.astype(np.float16))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65505, -65505, 1e30])
@pytest.mark.parametrize("column", ["latents_CTHW", "logvar_CTHW"])
def test_latents_that_float16_cannot_hold_reject_their_video(bad: float, column: str) -> None:
    """All of its clips go, also those that were fine; its neighbours stay."""
    clips = [clip_of("a"), clip_of("b"), clip_of("b", index=1), clip_of("b", index=2), clip_of("c")]
    encoded = [random_latents(number, 2, 1, 2, 2) for number in range(5)]
    getattr(encoded[2], column)[1, 0, 1] = bad
    batches = [
        Batch(clips=clips[:2], ends=[end_of(clips[0])]),
        Batch(clips=clips[2:], ends=[end_of(clips[3], sample=2), end_of(clips[4], sample=3)], closes_part=True),
    ]
    with warnings.catch_warnings(action="error"):
        (part,) = build_rows(zip(batches, [encoded[:2], encoded[2:]], strict=True), logvar=True)
    assert [row["source_key"] for row in part.rows] == ["a", "c"]
    (reject,) = part.rejects
    assert (reject["source_key"], reject["stage"], reject["error"]) == ("b", "encode", "not_finite")
    assert f"clip 1: 2 of 8 {column.partition('_')[0]}" in reject["message"]
    assert (reject["size_bytes"], reject["attempts"], reject["occurrence"]) == (100, 1, 0)
    assert (part.num_videos, part.video_bytes, part.end.sample) == (3, 300, 3)


def test_what_just_fits_stays() -> None:
    encoded = random_latents(0, 1, 1, 1, 2)
    encoded.latents_CTHW[0, 0, 0] = [65504, -65504]
    encoded.logvar_CTHW[:] = np.nan  # not stored
    (row,) = part_of(batch_of(clip_of()), [encoded]).rows
    assert np.frombuffer(row["latents"], "<f2").tolist() == [65504, -65504]


def test_a_rejected_video_leaves_no_row() -> None:
    """Its first clips were encoded before its decoding failed."""
    one, two = clip_of("one"), clip_of("one", occurrence=1)
    reject = Reject(stage="decode", error="truncated", message="m")
    ends = [end_of(one, reject=reject), end_of(two, sample=2)]
    part = part_of(batch_of(one, two, ends=ends), [tokens_of(1, 1, 1)] * 2)
    assert [row["id"] for row in part.rows] == [row_id(two)]
    assert [(entry["source_key"], entry["occurrence"], entry["error"]) for entry in part.rejects] == [
        ("one", 0, "truncated")
    ]


def test_each_part_starts_empty() -> None:
    first, second = clip_of("a"), clip_of("b")
    encoded = [tokens_of(1, 1, 1)]
    parts = list(build_rows([(batch_of(first), encoded), (batch_of(second), encoded)], logvar=False))
    assert [[row["source_key"] for row in part.rows] for part in parts] == [["a"], ["b"]]
    assert [part.num_videos for part in parts] == [1, 1]


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "caption", "metadata"),
    [
        ({}, None, None),
        ({"txt": " x "}, "x", {"txt": " x "}),
        ({"json": '{"caption": "c"}'}, "c", {"json": {"caption": "c"}}),
        ({"JSON": '{"caption": "c"}'}, "c", {"JSON": {"caption": "c"}}),
        ({"json": '{"text": "t", "title": "u"}'}, "t", {"json": {"text": "t", "title": "u"}}),
        ({"json": '{"caption": 5, "text": "t"}'}, "t", {"json": {"caption": 5, "text": "t"}}),
        ({"txt": " \n", "json": '{"caption": "c"}'}, "c", {"txt": " \n", "json": {"caption": "c"}}),
        ({"txt": "x", "json": '{"caption": "c"}'}, "x", {"txt": "x", "json": {"caption": "c"}}),
        ({"json": '["caption"]'}, None, {"json": ["caption"]}),
        ({"json": "{no json"}, None, {"json": "{no json"}),
        ({"json": '{"a": NaN}'}, None, {"json": '{"a": NaN}'}),
        ({"json": '{"a": -Infinity}'}, None, {"json": '{"a": -Infinity}'}),
        ({"json": '{"a": 1e999}'}, None, {"json": '{"a": 1e999}'}),
        ({"json": "1" * 5000}, None, {"json": "1" * 5000}),
        ({"json": DEEP}, None, {"json": DEEP}),
        ({"json": '{"caption": "\\ud800 x"}'}, "\\ud800 x", {"json": {"caption": "\ud800 x"}}),
        ({"json": '{"caption": "😀 \\u0000"}'}, "😀 \0", {"json": {"caption": "😀 \0"}}),
        ({"json": ""}, None, {"json": ""}),
        ({"srt": "1\n00:00"}, None, {"srt": "1\n00:00"}),
    ],
)
def test_captions_and_metadata(text: dict[str, str], caption: str | None, metadata: object) -> None:
    (row,) = part_of(batch_of(clip_of(text=text)), [tokens_of(1, 1, 1)]).rows
    assert row["caption"] == caption

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert (row["metadata"] and json.loads(row["metadata"], parse_constant=refuse)) == metadata
    for column in ("caption", "metadata"):
        assert row[column] is None or row[column].encode("utf-8"), "UTF-8 columns must hold it"


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_json_nested_nearly_too_deep(depth: int) -> None:
    """What can be read may be too deep to write."""
    (row,) = part_of(batch_of(clip_of(text={"json": "[" * depth + "]" * depth})), [tokens_of(1, 1, 1)]).rows
    assert row["metadata"].count("[") == depth
