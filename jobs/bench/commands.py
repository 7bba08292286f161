"""The `vidtok bench` command line."""

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["bench"]

_out = Console(width=None if sys.stdout.isatty() else 200, emoji=False)

bench = typer.Typer(help="Measure this machine: ratios to a baseline, both taken in one run.", no_args_is_help=True)


@bench.command("decode")
def bench_decode(
    sizes: Annotated[list[int] | None, typer.Option("--size", help="Height of a 16:9 source; repeatable.")] = None,
    runs: Annotated[int, typer.Option(help="Pairs of runs.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Frames a second of a decoder, to those of PyAV decoding to rgb24 in one process, by codec and size.

    One thread on each side; "/ tuned": where PyAV also converts in one thread; "and resized": to a job's square.
    """
    from jobs.bench.decode import DecodeRatio, bench_decode

    table = Table("codec", "height", "PyAV, frames/s", "ours / PyAV", "lowest", "highest", "/ tuned", "and resized")

    def show(result: DecodeRatio) -> None:
        ratios = [f"{ratio:.2f}" for ratio in (result.ratio, result.lowest, result.highest, result.tuned)]
        resized = f"{result.resized:.2f} (to {result.resized_to})"
        table.add_row(result.codec, str(result.height), f"{result.plain_fps:,.0f}", *ratios, resized)

    results = bench_decode(sizes or [256, 720, 1080], runs=runs, on_result=show)
    if as_json:
        sys.stdout.write(json.dumps(results, indent=1) + "\n")
    else:
        _out.print(table)


@bench.command("encode")
def bench_encode(
    model: Annotated[str, typer.Option(help="A released or carried model, whose weights are random here.")] = (
        "vidtok_fsq_causal_488_32768"
    ),
    size: Annotated[int, typer.Option(help="Pixels of a clip's side.")] = 128,
    runs: Annotated[int, typer.Option(help="Pairs of runs, each on a clip of its own.")] = 5,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16; the plain network computes in fp32.")] = "fp32",
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 1,
    decoder: Annotated[bool, typer.Option("--decoder", help="From latents to frames instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The encoder, to the same network written plainly, and to what the machine's convolutions give."""
    from jobs.bench.encode import bench_encode

    network = "decoder" if decoder else "encoder"
    result = bench_encode(model, size=size, runs=runs, dtype=dtype, network=network, threads=threads)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
        return
    table = Table(
        "network", "size", "TFLOP", "s", "plain / ours", "lowest", "highest", "of peak", "error", "memory", "tokens",
        "unequal", "unexplained",
    )  # fmt: skip
    table.add_row(
        f"{network}, {dtype}",
        str(size),
        f"{result.teraflop:.2f}",
        f"{result.seconds:.2f}",
        f"{result.ratio:.2f}",
        f"{result.lowest:.2f}",
        f"{result.highest:.2f}",
        f"{result.peak_share:.2f}",
        f"{result.error:.1e}",
        f"{result.memory_ratio:.2f}",
        f"{result.tokens:,}",
        str(result.unequal),
        str(result.unexplained),
    )
    _out.print(table)
    _out.print("[dim]random weights: times do not depend on them[/]")


@bench.command("agreement")
def bench_agreement(
    model: Annotated[str | None, typer.Option(help="A released or carried model.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Its weights; `random` for random ones.")] = None,
    size: Annotated[int, typer.Option(help="Pixels of a clip's side.")] = 128,
    clips: Annotated[int, typer.Option(help="How many.")] = 8,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What tf32, bf16 and fp16 change in tokens and decoded clips, against fp32 on real clips.

    Without --model and --checkpoint: both small models that the package carries.
    """
    from jobs.bench.agreement import Agreement, bench_agreement
    from vidtok_model import CARRIED

    table = Table("model", "arithmetic", "clips", "tokens equal", "digits equal", "error", "PSNR, dB")
    found: list[dict[str, object]] = []

    for name in [model] if model or checkpoint else list(CARRIED):

        def show(result: Agreement, name: str = name or str(checkpoint)) -> None:
            found.append({"model": name, "weights": checkpoint or "trained", **asdict(result)})
            shares = ["" if share is None else f"{share:.2%}" for share in (result.tokens_equal, result.digits_equal)]
            error = "" if result.error is None else f"{result.error:.1e}"
            apart = "equal" if result.psnr is None else f"{result.psnr:.1f}"
            table.add_row(name, result.arithmetic, str(result.clips), *shares, error, apart)

        bench_agreement(name, checkpoint, size=size, count=clips, device=device, on_result=show)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    _out.print(table)
    if checkpoint == "random":
        _out.print("[bold red]RANDOM WEIGHTS[/]: a trained model's tokens lie otherwise to their boundaries")


@bench.command("pipeline")
def bench_pipeline(
    videos: Annotated[int, typer.Option(min=4, help="Of a shard; two clips in turns.")] = 16,
    runs: Annotated[int, typer.Option(help="Pairs of runs.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """CPU seconds of a worker to those of decoding and encoding alone, and how busy a waiting encoder is kept."""
    from jobs.bench.pipeline import bench_pipeline

    result = bench_pipeline(videos=videos, runs=runs)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
        return
    table = Table(
        "clips",
        "worker / alone, CPU",
        "lowest",
        "highest",
        "slow encoder",
        "bottleneck",
        "fast one",
        "bottleneck",
    )
    table.add_row(
        str(result.clips),
        f"{result.cpu_ratio:.3f}",
        f"{result.lowest:.3f}",
        f"{result.highest:.3f}",
        f"{result.encoder_busy:.1%} busy",
        result.bottleneck_slow,
        f"{result.encoder_busy_starved:.1%} busy",
        result.bottleneck_fast,
    )
    _out.print(table)
    _out.print(
        f"Apart from that, until two shards are done: {result.start_seconds:.1f} CPU seconds of a worker's start, "
        f"{result.driver_seconds:.1f} of the driver, {result.daemon_seconds:.1f} of Ray's daemons"
    )


@bench.command("write")
def bench_write(
    runs: Annotated[int, typer.Option(help="Parts.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens a second of one core, from encoded clips to a part in a local store."""
    from jobs.bench.write import bench_write

    result = bench_write(runs=runs)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
        return
    table = Table("tokens", "tokens/s", "lowest", "highest", "to a copy", "bytes/token")
    table.add_row(
        f"{result.tokens:,}",
        *(f"{rate:,.0f}" for rate in (result.tokens_per_second, result.lowest, result.highest)),
        f"{result.ratio:.3f}",
        f"{result.bytes_per_token:.3f}",
    )
    _out.print(table)


@bench.command("read")
def bench_read(
    rows: Annotated[int, typer.Option(help="Clips of 5x32x32 tokens.")] = 9216,
    runs: Annotated[int, typer.Option(help="Epochs of each loader.")] = 5,
    workers: Annotated[int, typer.Option(help="Of the DataLoader; 0: the process itself.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch.")] = 16,
    latents: Annotated[bool, typer.Option("--latents", help="Latents of 4 channels in place of tokens.")] = False,
    peers: Annotated[
        str | None,
        typer.Option(help="The Python that has the other loaders, such as .venv/peers/bin/python."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """TokenDataset beside other loaders: the same tokens, window of shuffling, workers and batches, in turns."""
    from jobs.bench.read import bench_read

    kind = "latents" if latents else "tokens"
    results = bench_read(rows=rows, runs=runs, workers=workers, batch_size=batch_size, kind=kind, python=peers)
    if as_json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
        return
    unit = "MB/s" if latents else "M tokens/s"
    table = Table("loader", unit, "lowest", "highest", "a core", "cached TokenDataset / it")
    for result in results:
        if result.missing:
            table.add_row(result.loader, result.missing)
            continue
        rates = (result.per_second, result.lowest, result.highest, result.per_core_second)
        table.add_row(result.loader, *(f"{rate / 1e6:,.0f}" for rate in rates), f"{result.ratio:.2f}")
    _out.print(table)


@bench.command("schedule")
def bench_schedule(
    shards: Annotated[int, typer.Option(min=100, help="Shards to do.")] = 100_000,
    planned: Annotated[int, typer.Option(min=100, help="Shards to plan, for the driver's memory.")] = 1_000_000,
    workers: Annotated[int | None, typer.Option(help="Ray workers; by default as many as there are cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shards a second through Ray, to the writing of their commits alone, and the driver's memory.

    The shards take none of their videos: what is measured is what each costs beside those.
    """
    from jobs.bench.schedule import bench_schedule

    result = bench_schedule(shards=shards, planned=planned, workers=workers or os.cpu_count() or 1)
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
        return
    table = Table("workers", "shards", "shards/s", "bare commits/s", "ratio", "driver, MB", "planned", "driver, MB")
    table.add_row(
        str(result.workers),
        f"{result.shards:,}",
        f"{result.shards_per_second:,.0f}",
        f"{result.commits_per_second:,.0f}",
        f"{result.ratio:.2f}",
        f"{result.peak_bytes_done / 1e6:,.0f}",
        f"{result.planned:,}",
        f"{result.peak_bytes / 1e6:,.0f}",
    )
    _out.print(table)
