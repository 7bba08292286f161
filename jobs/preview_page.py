"""Clips there and back as one page, which needs nothing beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.pages import animation_url, picture_url, render
from pipeline.previews import Preview
from pipeline.records import VideoRef

__all__ = ["page_of"]

_SHOWN_FRAMES, _MOVING_FRAMES = 5, 32
_LONGEST_MILLISECONDS = 1000


def page_of(
    model: str, facts: Mapping[str, str], shown: Sequence[Preview], rejects: Sequence[tuple[VideoRef, str]]
) -> str:
    """The page as HTML.

    Args:
        model: its name.
        facts: what stands above all.
        shown: the clips.
        rejects: sampled videos without rows, and why.
    """
    return render(
        "preview.html.j2",
        model=model,
        facts=facts,
        clips=[_clip(preview) for preview in shown],
        rejects=[(_name(ref), reason) for ref, reason in rejects],
    )


def _name(ref: VideoRef) -> str:
    return ref.key if ref.source_shard == "." else f"{ref.source_shard}: {ref.key}"


def _clip(preview: Preview) -> dict[str, Any]:
    clip, decoded = preview.clip, preview.decoded_THWC
    source = clip.source
    begin = float(clip.frame_seconds[0])
    rate = f", {source.fps:.4g} frames a second" if source.fps else ""
    facts: dict[str, Any] = {
        "name": _name(clip.ref),
        "about": f"clip {clip.clip_index}, from {begin:.2f} to {begin + clip.duration_seconds:.2f} s; "
        f"the source is {source.width}x{source.height}, {source.codec}{rate}",
        "problem": preview.problem,
    }
    if decoded is None:
        return facts
    pairs = list(zip(clip.frames_THWC, decoded, clip.frame_seconds.tolist(), strict=False))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, _SHOWN_FRAMES).round().astype(int))
    return {
        **facts,
        "psnr": f"{preview.psnr:.2f}",
        "moving": _moving(pairs, clip.duration_seconds) if len(pairs) > 1 else None,
        "frames": [
            {"picture": picture_url(np.concatenate(pairs[index][:2])), "time": f"{pairs[index][2]:.2f} s"}
            for index in chosen
        ],
    }


def _moving(pairs: Sequence[tuple[Any, Any, float]], duration_seconds: float) -> str:
    """The clip's beginning at its own pace."""
    some = pairs[:_MOVING_FRAMES]
    ends = [*(seconds for _, _, seconds in pairs[1:]), pairs[0][2] + duration_seconds][: len(some)]
    times = [
        min(_LONGEST_MILLISECONDS, max(20, round(1000 * (end - seconds))))
        for (_, _, seconds), end in zip(some, ends, strict=True)
    ]
    return animation_url(np.stack([np.concatenate(pair[:2]) for pair in some]), times)
