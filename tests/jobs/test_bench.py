"""Benchmarks measure what they say: the same frames on both sides, and ratios of times."""

import io
import subprocess
import sys
from collections.abc import Sequence

import av
import pytest
import torch

from jobs.bench import decode, encode
from jobs.bench.agreement import AUTOCAST, Agreement, bench_agreement
from jobs.bench.decode import bench_decode
from jobs.bench.pipeline import bench_pipeline
from jobs.bench.plain import plain_decode, plain_encode
from jobs.bench.processes import DAEMONS, OURS, cpu_seconds
from jobs.bench.schedule import bench_schedule
from jobs.bench.sources import CODECS, encoded, scene
from jobs.bench.write import bench_write
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderPool
from vidtok_model.golden import golden_clip, golden_tokenizer


def test_the_decode_ratio_is_that_of_two_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_SECONDS", 4.0)
    monkeypatch.setattr(decode, "_plain", lambda videos, threads=None: (threads or 2.0) * len(videos))
    real, seen = decode._ours, []

    def ours(pool: DecoderPool, videos: Sequence[bytes], options: DecodeOptions) -> float:
        assert real(pool, videos, options) > 0
        seen.append((len(videos), options.size))
        return 16.0 if options.size == 32 else 8.0

    monkeypatch.setattr(decode, "_ours", ours)
    shown: list[decode.DecodeRatio] = []
    (result,) = bench_decode([64], codecs=["mpeg4"], num_frames=20, runs=3, on_result=shown.append)
    assert seen == [(1, 64), *[(2, 64), (2, 32)] * 3], "the sides take turns, after one run that starts the decoder"
    assert result == {
        "codec": "mpeg4",
        "height": 64,
        "plain_fps": 10.0,
        "ratio": 0.5,
        "lowest": 0.5,
        "highest": 0.5,
        "tuned": 0.25,
        "resized_to": 32,
        "resized": 0.25,
    }
    assert shown[0].ratio == 0.5


@pytest.mark.parametrize("codec", CODECS)
def test_a_source_has_all_its_frames_from_both_clips(codec: str) -> None:
    frames = scene(64, 8)
    assert len(frames) == 8 and {(frame.width, frame.height) for frame in frames} == {(114, 64)}
    with av.open(io.BytesIO(encoded(codec, frames))) as container:
        means = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert means == pytest.approx([frame.to_ndarray(format="gray").mean() for frame in frames], abs=6)


@pytest.mark.parametrize(
    "name", ["vidtok_fsq_causal_488_32768", "vidtok_kl_noncausal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"]
)
def test_the_plain_networks_are_ours(name: str) -> None:
    """Held against the golden vectors by this."""
    tokenizer = golden_tokenizer(name)
    clips_BCTHW = golden_clip(name, (2, 3, 17 if tokenizer.config.is_causal else 16, 32, 32))
    latents_BCTHW = torch.linspace(-1, 1, 2 * tokenizer.config.latent_channels * 5 * 4 * 4).view(2, -1, 5, 4, 4)
    with torch.inference_mode():
        ours = tokenizer.encoder(tokenizer.encoder_input(clips_BCTHW)).movedim(-1, 1)
        torch.testing.assert_close(plain_encode(tokenizer, clips_BCTHW), ours, rtol=1e-5, atol=2e-5)
        frames = tokenizer.decoder(latents_BCTHW.movedim(1, -1).contiguous()).movedim(-1, 1)
        torch.testing.assert_close(plain_decode(tokenizer, latents_BCTHW), frames, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_the_encode_ratio_is_that_of_two_times(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In turns: the plain one is first in the second pair.
    seconds = iter([1.0, 3.0, 2.0, 1.0, 2.0, 8.0])
    real = encode._timed
    monkeypatch.setattr(encode, "_timed", lambda form, x: (real(form, x)[0], next(seconds)))
    monkeypatch.setattr(encode, "conv_flops_per_second", lambda: 1e12)
    monkeypatch.setattr(encode, "_memory", lambda form, *_: {"ours": 1, "plain": 4}[form])
    result = encode.bench_encode("vidtok_tiny_fsq_causal_488_1073741824", size=64, runs=3, network=network)
    assert (result.ratio, result.lowest, result.highest, result.seconds) == (3.0, 2.0, 4.0, 1.0)
    assert result.peak_share == pytest.approx(result.teraflop)  # of one second each, but for one pair
    assert result.memory_ratio == 0.25
    assert 0 < result.error < 1e-4 and result.unexplained == 0
    assert result.tokens == (3 * 5 * 8 * 8 if network == "encoder" else 0)


def test_memory_is_that_of_one_pass() -> None:
    name = "vidtok_tiny_kl_causal_488_16chn"
    ours, plain = (encode._memory(form, name, 128, "fp32", "encoder", 1) for form in ("ours", "plain"))
    largest = 20 * 128 * 128 * 16 * 4
    assert largest < ours < 0.6 * plain


def test_tokens_that_differ_far_from_any_boundary_are_told() -> None:
    tokenizer = golden_tokenizer("vidtok_fsq_causal_488_32768")
    channels = tokenizer.config.latent_channels
    expected = torch.full((1, channels, 1, 1, 3), 0.05)
    quantizer = tokenizer.regularizer
    while quantizer.bounded(expected[:, :1].movedim(1, -1))[..., 0].frac().abs().max() < 0.5:
        expected[:, 0] += 1e-4  # to just beyond the first boundary of a level
    got = expected.clone()
    got[0, 0, 0, 0, 0] -= 2e-4  # back over it, from within 1e-4
    got[0, 1, 0, 0, 1] += 1.0  # and far over another
    error, tokens, unequal, unexplained = encode._compared(tokenizer, got, expected)
    assert error == pytest.approx(1.0, abs=1e-6)
    assert (tokens, unequal, unexplained) == (3, 2, 1)


def test_half_precision_agrees_better_than_autocast() -> None:
    """Digits that are the same, and clips that decode to nearly the same: with the small FSQ model, on real clips."""
    shown: list[Agreement] = []
    name = "vidtok_tiny_fsq_causal_488_1073741824"
    results = bench_agreement(name, None, size=64, count=2, device="cpu", on_result=shown.append)
    assert shown == results
    by_name = {result.arithmetic: result for result in results}
    assert set(by_name) == {"bf16", "fp16", AUTOCAST}
    autocast, bf16, fp16 = (by_name[name].digits_equal or 0 for name in (AUTOCAST, "bf16", "fp16"))
    assert 0.9 < autocast < bf16 < fp16 < 1
    assert all((result.tokens_equal or 1) < (result.digits_equal or 0) for result in results)
    assert by_name["fp16"].psnr is not None and by_name["fp16"].psnr > (by_name[AUTOCAST].psnr or 0) > 30


def test_the_writing_rate_counts_all_tokens() -> None:
    result = bench_write(runs=3, part_mib=4)
    assert result.tokens == 204 * 5 * 32 * 32
    assert 0 < result.lowest <= result.tokens_per_second <= result.highest
    assert 15 / 8 < result.bytes_per_token < 1.05 * 2  # random tokens of 15 bits, in two of four byte planes


def test_what_only_names_ray_is_no_daemon() -> None:
    """As a decoder does, where Ray was imported before it began, and all in Ray's images, whose home is /home/ray."""
    busy = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\nsys.stdin.read()\n"
    before = cpu_seconds()
    command = [sys.executable, "-c", f"{busy}# /site-packages/ray/thirdparty_files", "/home/ray/shards"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        spent = cpu_seconds() - before
        process.communicate()
    assert spent[OURS] > 0.4 and not spent[DAEMONS]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_pipeline_adds_nothing_and_keeps_its_encoder_busy() -> None:
    result = bench_pipeline(videos=12, runs=5)
    assert result.cpu_ratio < 1.05
    assert min(result.start_seconds, result.driver_seconds, result.daemon_seconds) > 0.5  # each of them is found
    assert result.encoder_busy > 0.95 and result.bottleneck_slow == "encode"
    assert result.encoder_busy_starved < 0.5 and result.bottleneck_fast == "decode"


@pytest.mark.slow
def test_the_schedule_ratio_is_that_of_two_rates() -> None:
    result = bench_schedule(shards=120, planned=120, workers=1)
    assert result.ratio == pytest.approx(result.shards_per_second / result.commits_per_second) and result.ratio > 0
    assert 50e6 < result.peak_bytes < 500e6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_shards_are_planned_in_half_a_gigabyte() -> None:
    assert bench_schedule(shards=120, planned=1_000_000, workers=1).peak_bytes < 500e6
