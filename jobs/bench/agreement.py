"""vidtok bench agreement: what another arithmetic than fp32 changes in tokens, latents and decoded clips."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.bench.plain import plain_encode
from jobs.bench.sources import clips
from pipeline.encode import TORCH_DTYPES, set_arithmetic
from pipeline.weights import load_model
from vidtok_model import Encoded, VideoTokenizer
from vidtok_model.metrics import psnr
from vidtok_model.regularizers import regularize

__all__ = ["Agreement", "bench_agreement"]

AUTOCAST = "bf16, autocast"
"""The plain network under torch.autocast, as the published code computes."""


@dataclass(frozen=True)
class Agreement:
    """What was measured of one arithmetic, against fp32 on the same clips.

    Attributes:
        arithmetic: bf16, fp16, on a GPU tf32 too, or the published code's autocast.
        clips: how many.
        tokens_equal: share of the tokens that are the same; None for a KL model.
        digits_equal: share of a token's digits, the levels of its channels; None for a KL model.
        error: root mean square difference of the means; None for an FSQ model.
        psnr: dB between the clips decoded (in fp32) from either, the mean over their frames; None: no frame differs.
    """

    arithmetic: str
    clips: int
    tokens_equal: float | None
    digits_equal: float | None
    error: float | None
    psnr: float | None


def bench_agreement(
    model: str | None,
    checkpoint: str | None,
    *,
    size: int,
    count: int,
    device: str,
    on_result: Callable[[Agreement], None],
) -> list[Agreement]:
    """Measures each arithmetic on real clips.

    Args:
        model: as of `load_model`.
        checkpoint: as of `load_model`; `random` too, whose tokens lie otherwise than a trained model's.
        size: pixels of a clip's side.
        count: clips.
        device: a torch device.
        on_result: called with each result.
    """
    exact, _ = load_model(model, checkpoint, device=device, dtype=torch.float32)
    given = [clip.to(device) for clip in clips(size, exact.config.clip_frames, count)]
    set_arithmetic("fp32")
    expected = [_encoded(exact, clip) for clip in given]
    frames = [_decoded(exact, one) for one in expected]
    results = []
    for arithmetic in [*(["tf32"] if "cuda" in device else []), AUTOCAST, "bf16", "fp16"]:
        autocasts = arithmetic == AUTOCAST
        dtype = torch.float32 if autocasts else TORCH_DTYPES[arithmetic]
        other, _ = load_model(model, checkpoint, device=device, dtype=dtype)
        set_arithmetic("tf32" if autocasts else arithmetic)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocasts):
            found = [_encoded(other, clip, is_plain=autocasts) for clip in given]
        set_arithmetic("fp32")
        apart = [psnr(one, _decoded(exact, got)) for one, got in zip(frames, found, strict=True)]
        results.append(_compared(arithmetic, expected, found, torch.cat(apart).cpu(), exact.config.is_discrete))
        on_result(results[-1])
    return results


def _compared(
    arithmetic: str, expected: list[Encoded], found: list[Encoded], apart: Tensor, is_discrete: bool
) -> Agreement:
    def equal(name: str) -> float | None:
        if not is_discrete:
            return None
        same = [getattr(one, name) == getattr(other, name) for one, other in zip(expected, found, strict=True)]
        return float(torch.cat([each.flatten() for each in same]).float().mean())

    squares = [(one.latents - other.latents).square().mean() for one, other in zip(expected, found, strict=True)]
    differing = apart[apart.isfinite()]
    return Agreement(
        arithmetic=arithmetic,
        clips=len(expected),
        tokens_equal=equal("tokens"),
        digits_equal=equal("latents"),  # codes are equal where digits are
        error=None if is_discrete else float(torch.stack(squares).mean().sqrt()),
        psnr=float(differing.mean()) if len(differing) else None,
    )


@torch.inference_mode()
def _encoded(tokenizer: VideoTokenizer, clip_BCTHW: Tensor, *, is_plain: bool = False) -> Encoded:
    if is_plain:
        return regularize(tokenizer.regularizer, plain_encode(tokenizer, clip_BCTHW).movedim(1, -1).contiguous())
    return tokenizer.encode(clip_BCTHW)


@torch.inference_mode()
def _decoded(tokenizer: VideoTokenizer, encoded: Encoded) -> Tensor:
    return tokenizer.decode(encoded.latents).clamp(-1, 1)
