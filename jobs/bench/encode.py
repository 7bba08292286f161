"""vidtok bench encode: the encoder (or the decoder) as a ratio to the same network written plainly.

Both take real clips, one after the other, in turns; the weights are random, on which no time depends.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.plain import plain_decode, plain_encode
from jobs.bench.sources import clips
from vidtok_model import VideoTokenizer, random_tokenizer
from vidtok_model.regularizers import FiniteScalarQuantizer

__all__ = ["EncodeRatio", "bench_encode", "conv_flops_per_second"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SMALL = 32  # pixels of a clip that is computed before anything is measured
# A rounding boundary that lies so near to what the plain network gives may fall to either side.
_NEAR = 1e-4
# Of the convolution that is the machine's limit: in the caches, and as wide as the network where it is costly.
_PEAK_SHAPE = (2, 128, 64, 64)


@dataclass(frozen=True)
class EncodeRatio:
    """What was measured of one network at one size; one clip of a model's usual length at a time.

    Attributes:
        model: its name.
        network: encoder or decoder.
        dtype: what ours computes in; the plain one computes in fp32.
        size: pixels of a clip's side.
        threads: of the CPU.
        seconds: of ours, median of the pairs.
        teraflop: of one clip.
        ratio: plain to ours: median of the pairs.
        lowest: the lowest of the pairs.
        highest: the highest of the pairs.
        peak_share: FLOPs/s of ours to those of a 3x3 channels-last convolution in fp32, measured in each pair: median.
        error: the largest difference of ours to the plain one: of the numbers that are rounded to tokens or are a
            distribution's parameters, or of frames.
        tokens: that were compared, of an FSQ model.
        unequal: of them, those that differ.
        unexplained: of these, those of which a channel differs that, of the plain network, is not within 1e-4 of a
            boundary.
        memory_ratio: peak memory of ours to that of the plain one, weights aside.
    """

    model: str
    network: str
    dtype: str
    size: int
    threads: int
    seconds: float
    teraflop: float
    ratio: float
    lowest: float
    highest: float
    peak_share: float
    error: float
    tokens: int
    unequal: int
    unexplained: int
    memory_ratio: float


def bench_encode(
    model: str, *, size: int, runs: int, dtype: str = "fp32", network: str = "encoder", threads: int = 1
) -> EncodeRatio:
    """Measures one network; arguments as of EncodeRatio, and `runs` pairs, each on another clip."""
    torch.set_num_threads(threads)
    tokenizer, ours, plain = _forms(model, network, dtype)
    inputs = [_input(tokenizer, clip, network) for clip in clips(size, tokenizer.config.clip_frames, runs)]
    small = inputs[0][..., :_SMALL, :_SMALL] if network == "encoder" else inputs[0][..., :4, :4]
    ours(small)
    plain(small)
    teraflop = _teraflop(tokenizer, inputs[0], network)
    pairs, peaks, found = [], [], []
    for number, x in enumerate(inputs):
        peaks.append(conv_flops_per_second())
        turns = {form: _timed(form, x) for form in ((ours, plain) if number % 2 == 0 else (plain, ours))}
        (got, seconds), (expected, plain_seconds) = turns[ours], turns[plain]
        pairs.append((seconds, plain_seconds))
        found.append(
            _compared(tokenizer, got, expected) if network == "encoder" else (_largest(got, expected), 0, 0, 0)
        )
    ratios = [plain_seconds / seconds for seconds, plain_seconds in pairs]
    shares = [teraflop * 1e12 / seconds / peak for (seconds, _), peak in zip(pairs, peaks, strict=True)]
    memory = [_memory(form, model, size, dtype, network, threads) for form in ("ours", "plain")]
    return EncodeRatio(
        model=model,
        network=network,
        dtype=dtype,
        size=size,
        threads=threads,
        seconds=statistics.median(seconds for seconds, _ in pairs),
        teraflop=teraflop,
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        peak_share=statistics.median(shares),
        error=max(error for error, _, _, _ in found),
        tokens=sum(tokens for _, tokens, _, _ in found),
        unequal=sum(unequal for _, _, unequal, _ in found),
        unexplained=sum(unexplained for _, _, _, unexplained in found),
        memory_ratio=memory[0] / memory[1],
    )


def conv_flops_per_second() -> float:
    """Of a 3x3 convolution, channels-last, float32: the best of a few."""
    N, C, H, W = _PEAK_SHAPE
    x = torch.rand(N, H, W, C).permute(0, 3, 1, 2)
    weight, bias = torch.rand(C, C, 3, 3).contiguous(memory_format=torch.channels_last), torch.rand(C)
    with torch.inference_mode():
        seconds = min(_timed(lambda x: F.conv2d(x, weight, bias, padding=1), x)[1] for _ in range(8))
    return 2 * 9 * C * C * N * H * W / seconds


Form = Callable[[Tensor], Tensor]


def _forms(model: str, network: str, dtype: str) -> tuple[VideoTokenizer, Form, Form]:
    """The tokenizer; and ours and the plain form of the network, channels second in both results."""
    exact = random_tokenizer(model, seed=0)
    tokenizer = exact if dtype == "fp32" else random_tokenizer(model, seed=0).compute_in(DTYPES[dtype])
    if network == "decoder":
        return exact, tokenizer.decode, lambda z: plain_decode(exact, z)[:, :, -exact.config.clip_frames :]
    return (
        exact,
        lambda x: tokenizer.encoder(tokenizer.encoder_input(x)).movedim(-1, 1),
        lambda x: plain_encode(exact, x),
    )


def _input(tokenizer: VideoTokenizer, clip_BCTHW: Tensor, network: str) -> Tensor:
    if network == "encoder":
        return clip_BCTHW
    config = tokenizer.config
    shape = (1, *config.latent_shape(*clip_BCTHW.shape[2:]))
    # Latents of random weights mean nothing: noise does as well.
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _timed(form: Form, x: Tensor) -> tuple[Tensor, float]:
    with torch.inference_mode():
        began = time.perf_counter()
        y = form(x)
        return y, time.perf_counter() - began


def _teraflop(tokenizer: VideoTokenizer, x: Tensor, network: str) -> float:
    """Counted on small frames, since only attention's share, which is small, does not grow with the pixels."""
    scale = x.shape[-1] / (_SMALL if network == "encoder" else 4)
    small = x[..., :_SMALL, :_SMALL] if network == "encoder" else x[..., :4, :4]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (plain_encode if network == "encoder" else plain_decode)(tokenizer, small)
    return float(counter.get_total_flops()) * scale**2 / 1e12


def _largest(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max())


def _compared(tokenizer: VideoTokenizer, got: Tensor, expected: Tensor) -> tuple[float, int, int, int]:
    """The largest difference; tokens, those that differ, and those of them that no boundary explains."""
    quantizer = tokenizer.regularizer
    if not isinstance(quantizer, FiniteScalarQuantizer):
        return _largest(got, expected), 0, 0, 0
    steps, wanted = (quantizer.bounded(z.movedim(1, -1)) for z in (got, expected))
    differs = steps.round() != wanted.round()
    is_near = (wanted - wanted.floor() - 0.5).abs() <= _NEAR
    unequal, unexplained = (int(channels.any(dim=-1).sum()) for channels in (differs, differs & ~is_near))
    return _largest(got, expected), differs[..., 0].numel(), unequal, unexplained


def _memory(form: str, model: str, size: int, dtype: str, network: str, threads: int) -> int:
    """Bytes that one pass takes at its peak, in a process of its own."""
    arguments = json.dumps([form, model, size, dtype, network, threads])
    done = subprocess.run([sys.executable, "-m", __spec__.name, arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def _measure_memory(form: str, model: str, size: int, dtype: str, network: str, threads: int) -> int:
    torch.set_num_threads(threads)
    tokenizer, ours, plain = _forms(model, network, dtype)
    (clip,) = clips(size, tokenizer.config.clip_frames, 1)
    x = _input(tokenizer, clip, network)
    run = ours if form == "ours" else plain
    _timed(run, x[..., :_SMALL, :_SMALL] if network == "encoder" else x[..., :4, :4])
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    _timed(run, x)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    print(_measure_memory(*json.loads(sys.argv[1])))
