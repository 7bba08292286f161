"""build_rows: encoded clips become rows, rejected videos become rejects, and a range of both becomes a part."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import numpy as np
import pyarrow as pa

from pipeline.records import Batch, Clip, EncodedClip, Part, Reject, VideoEnd, VideoRef

__all__ = [
    "FORMAT_VERSION",
    "PAYLOAD_COLUMNS",
    "REJECT_SCHEMA",
    "SEGMENT_COLUMN",
    "build_rows",
    "row_id",
    "row_schema",
]

# Of the dataset as a whole. Raise it when a reader of the old form would misread the new one.
FORMAT_VERSION = 1

PAYLOAD_COLUMNS = ("tokens", "latents", "logvar")
# Only datasets of streams have it.
SEGMENT_COLUMN = "segment_index"
CAPTION_EXTENSIONS = ("caption", "cap", "txt")
CAPTION_KEYS = ("caption", "text", "prompt", "title")
_FLOAT16_MAX = float(np.finfo(np.float16).max)

_REJECT_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("source_shard", pa.string()),
    ("source_key", pa.string()),
    ("occurrence", pa.int32()),
    ("stage", pa.string()),
    ("error", pa.string()),
    ("message", pa.string()),
    ("attempts", pa.int32()),
    ("size_bytes", pa.int64()),
]
REJECT_SCHEMA = pa.schema(_REJECT_COLUMNS)


def row_schema(*, is_discrete: bool, logvar: bool, is_stream: bool = False) -> pa.Schema:
    """Columns of a part, in order. Signed integers only, since table formats map unsigned ones away."""
    fields: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("source_shard", pa.string()),
        ("source_key", pa.string()),
        ("clip_index", pa.int32()),
        *([(SEGMENT_COLUMN, pa.int32())] if is_stream else []),
        ("start_seconds", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("frame_seconds", pa.list_(pa.float32())),
        ("num_frames", pa.int32()),
        ("num_padded_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_fps", pa.float64()),
        ("source_codec", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("caption", pa.string()),
        ("metadata", pa.string()),
        ("latent_t", pa.int32()),
        ("latent_h", pa.int32()),
        ("latent_w", pa.int32()),
    ]
    if is_discrete:
        # Without nulls, of which Parquet would keep account token by token: that is a quarter of a reader's time.
        tokens = pa.field("tokens", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False)
        return pa.schema(fields).append(tokens)
    payload = ("latents", "logvar") if logvar else ("latents",)
    return pa.schema(fields + [(name, pa.binary()) for name in payload])


def build_rows(encoded: Iterable[tuple[Batch, list[EncodedClip]]], *, logvar: bool) -> Iterator[Part]:
    """Collects the rows of whole videos and yields a part where a batch closes one.

    Args:
        encoded: batches with what the encoder made of their clips.
        logvar: whether rows of a KL model hold the log-variance.
    """
    rows: dict[tuple[str, int], list[dict[str, object]]] = {}
    texts: dict[tuple[str, int], dict[str, str | None]] = {}
    unfit: dict[tuple[str, int], Reject] = {}
    ends: list[VideoEnd] = []
    for batch, results in encoded:
        for clip, result in zip(batch.clips, results, strict=True):
            video = (clip.ref.key, clip.ref.occurrence)
            problem = _unfit(clip, result, logvar=logvar)
            if problem is not None:
                unfit.setdefault(video, problem)
            if video not in texts:
                texts[video] = _caption_and_metadata(clip.ref.text)
            rows.setdefault(video, []).append(_row(clip, result, texts[video], logvar=logvar))
        ends += batch.ends
        if batch.closes_part:
            yield _part(ends, rows, unfit)
            rows, texts, unfit, ends = {}, {}, {}, []


def row_id(clip: Clip) -> str:
    """32 hex digits that name a clip: the same on every run and for every model that cuts the same windows.

    Hashed are the shard's path below the input's root, the sample's key, its occurrence in the shard, and the
    range of the clip: the times of its first and last real frame in microseconds, and how many frames it has.
    """
    count = len(clip.frame_seconds)
    first, last = clip.frame_seconds.item(0), clip.frame_seconds.item(count - clip.num_padded_frames - 1)
    video = _video_name(clip.ref.source_shard, clip.ref.key, clip.ref.occurrence)
    name = f"{video}, {round(first * 1e6)}, {round(last * 1e6)}, {count}]"  # as JSON has it
    return hashlib.sha256(name.encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=16)
def _video_name(source_shard: str, key: str, occurrence: int) -> str:
    return json.dumps([source_shard, key, occurrence]).removesuffix("]")


def _part(
    ends: list[VideoEnd],
    rows: Mapping[tuple[str, int], list[dict[str, object]]],
    unfit: Mapping[tuple[str, int], Reject],
) -> Part:
    kept: list[dict[str, object]] = []
    rejects: list[dict[str, object]] = []
    for end in ends:
        video = (end.ref.key, end.ref.occurrence)
        reject = end.reject or unfit.get(video)
        if reject is None:
            for row in rows[video]:
                row["flags"] = [*cast("list[str]", row["flags"]), *end.flags]
            kept += rows[video]
        else:
            rejects.append(_reject_row(end.ref, reject))
    position = ends[-1].end
    assert position is not None, "a part closes only after a sample's last video"
    return Part(
        rows=kept,
        rejects=rejects,
        num_videos=len(ends),
        video_bytes=sum(end.ref.size_bytes for end in ends),
        end=position,
    )


def _reject_row(ref: VideoRef, reject: Reject) -> dict[str, object]:
    return {
        "source_shard": ref.source_shard,
        "source_key": ref.key,
        "occurrence": ref.occurrence,
        "stage": reject.stage,
        "error": reject.error,
        "message": reject.message,
        "attempts": reject.attempts,
        "size_bytes": ref.size_bytes,
    }


def _unfit(clip: Clip, result: EncodedClip, *, logvar: bool) -> Reject | None:
    if result.tokens_THW is not None and result.tokens_THW.min() < 0:  # how the model marks what is not finite
        bad = int(np.count_nonzero(result.tokens_THW < 0))
        message = (
            f"clip {clip.clip_index}: {bad} of {result.tokens_THW.size} tokens come from values that are not finite"
        )
        return Reject(stage="encode", error="not_finite", message=message)
    for name, values in (("latents", result.latents_CTHW), ("logvar", result.logvar_CTHW if logvar else None)):
        if values is not None and not np.all(np.abs(values) <= _FLOAT16_MAX):  # false for NaN too
            bad = int(np.count_nonzero(~(np.abs(values) <= _FLOAT16_MAX)))
            message = f"clip {clip.clip_index}: {bad} of {values.size} {name} are not finite or beyond float16"
            return Reject(stage="encode", error="not_finite", message=message)
    return None


def _row(clip: Clip, result: EncodedClip, text: Mapping[str, str | None], *, logvar: bool) -> dict[str, object]:
    frames, height, width, _ = clip.frames_THWC.shape
    start = float(clip.frame_seconds[0])
    row: dict[str, object] = {
        "id": row_id(clip),
        "source_shard": clip.ref.source_shard,
        "source_key": clip.ref.key,
        "clip_index": clip.clip_index,
        **({} if clip.segment_index is None else {SEGMENT_COLUMN: clip.segment_index}),
        "start_seconds": start,
        "duration_seconds": clip.duration_seconds,
        "frame_seconds": (clip.frame_seconds - start).astype(np.float32),
        "num_frames": frames,
        "num_padded_frames": clip.num_padded_frames,
        "width": width,
        "height": height,
        "source_width": clip.source.width,
        "source_height": clip.source.height,
        "source_fps": clip.source.fps,
        "source_codec": clip.source.codec,
        "flags": list(clip.flags),
        **text,
    }
    grid = result.tokens_THW if result.tokens_THW is not None else result.latents_CTHW
    assert grid is not None, "an encoder gives tokens or latents"
    row |= dict(zip(("latent_t", "latent_h", "latent_w"), grid.shape[-3:], strict=True))
    if result.tokens_THW is not None:
        row["tokens"] = result.tokens_THW.reshape(-1)
        return row
    payload = {"latents": result.latents_CTHW, "logvar": result.logvar_CTHW if logvar else None}
    with np.errstate(over="ignore"):  # such a video is rejected, by _unfit
        row |= {name: values.astype("<f2").tobytes() for name, values in payload.items() if values is not None}
    return row


def _caption_and_metadata(text: Mapping[str, str]) -> dict[str, str | None]:
    """A sample's caption, and all its text: a JSON object by extension, in which JSON members stand parsed."""
    parsed = {name: _parse(content) if name.lower().endswith("json") else content for name, content in text.items()}
    caption = next((text[name].strip() for name in CAPTION_EXTENSIONS if text.get(name, "").strip()), None)
    if caption is None:
        members = [value for value in parsed.values() if isinstance(value, dict)]
        found = [value[key] for value in members for key in CAPTION_KEYS if isinstance(value.get(key), str)]
        caption = _encodable(found[0]) if found else None
    metadata = _encodable(json.dumps(parsed, ensure_ascii=False)) if parsed else None
    return {"caption": caption, "metadata": metadata}


def _parse(content: str) -> object:
    """A JSON text's value; the text itself where it is not JSON that every reader takes."""
    try:
        value = json.loads(content, parse_constant=_refuse)
        # 1e999 is read as infinity, and what is barely shallow enough to read may be too deep to write.
        json.dumps([value], allow_nan=False)
        return value
    except (ValueError, RecursionError):
        return content


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _encodable(text: str) -> str:
    # JSON can escape half a surrogate pair, which no UTF-8 column can hold.
    return text.encode("utf-8", "backslashreplace").decode()
