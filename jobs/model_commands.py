"""The commands of the `vidtok` command line that are about models and their weights, not about a job or its dataset."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.display import human_bytes
from jobs.extras import check_extra
from jobs.options import Anon, Assignments, EndpointUrl
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.checkpoints import Weights
    from vidtok_model import TokenizerConfig, VideoTokenizer

__all__ = ["convert", "evaluate", "models", "reconstruct", "train"]


class Crop(StrEnum):
    """As in a job file."""

    KEEP = "keep"
    CENTER = "center"
    PAD = "pad"


class Dtype(StrEnum):
    """As in a job file."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


Model = Annotated[
    str | None,
    typer.Option("--model", help="A released or carried model; by default the one that the checkpoint says it is of."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        help="Weights: a path, s3://, https:// or hf://; `random` for random ones, which mean nothing; by default "
        "those that are carried, of the small models."
    ),
]
Device = Annotated[str | None, typer.Option(help="A torch device; by default the GPU, where there is one.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Arithmetic of the model.")]
Sample = Annotated[bool, typer.Option("--sample", help="Decode samples of a KL model's latents, not their means.")]


def models() -> None:
    """List the released models, and those whose weights are carried."""
    from vidtok_model import CARRIED, MODELS

    table = Table("model", "kind", "causal", "T x H x W", "latent channels", "codebook", "clip frames", "weights")
    for name, config in {**MODELS, **CARRIED}.items():
        factors = f"{config.time_factor} x {config.spatial_factor} x {config.spatial_factor}"
        codebook = f"{config.codebook_size:,}" if config.codebook_size else ""
        kind = "FSQ tokens" if config.is_discrete else "KL latents"
        causal = "yes" if config.is_causal else "no"
        channels, frames = str(config.latent_channels), str(config.clip_frames)
        table.add_row(
            name, kind, causal, factors, channels, codebook, frames, "carried" if name in CARRIED else "published"
        )
    # A name must come out whole even where the output is no terminal and its width unknown.
    Console(width=None if sys.stdout.isatty() else 140, emoji=False).print(table)


def convert(
    source: Annotated[str, typer.Argument(help="A .ckpt or .safetensors: a path, s3://, https:// or hf://.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors to write; what stands there is replaced.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Which released model it is of, where neither it nor its name says so."),
    ] = None,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Convert a checkpoint to a .safetensors that says which model it is of, without what only training needs."""
    from jobs.conversion import convert_checkpoint  # PyTorch takes a second to import

    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    done = convert_checkpoint(source, target, model=model, options=options)
    size = human_bytes(target.stat().st_size)
    Console(emoji=False).print(
        f"Wrote {done.num_weights} weights of {done.config.name} ({size}) to {target}\n"
        f"source sha256 {done.source_sha256}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def reconstruct(
    video: Annotated[str, typer.Argument(help="A video file or URL, of any length.")],
    target: Annotated[Path, typer.Option("--out", help="The video to write: MP4, or Matroska where it ends in .mkv.")],
    model: Model = None,
    checkpoint: Checkpoint = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="The original to the left.")] = False,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="Whether its sound goes along.")] = True,
    size: Annotated[int, typer.Option(min=1, help="Pixels of the shorter side.")] = 256,
    crop: Annotated[Crop, typer.Option(help="As in a job file.")] = Crop.KEEP,
    fps: Annotated[float | None, typer.Option(min=0.001, help="Frames a second; by default all there are.")] = None,
    sample: Sample = False,
    device: Device = None,
    dtype: DtypeOption = Dtype.FP32,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Send a video through a model and back, and write what comes of it, its sound as it is."""
    from jobs.reconstruction import reconstruct_video  # PyTorch takes a second to import
    from pipeline.decoding.options import DecodeOptions

    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    tokenizer, _ = _loaded(model, checkpoint, device, dtype, options)
    _check_sample(sample, tokenizer.config)
    decode = DecodeOptions(
        fps=fps,
        size=_checked_size(size, tokenizer.config),
        crop=crop.value,
        factor=tokenizer.config.spatial_factor,
        threads=os.cpu_count() or 1,
    )
    done = reconstruct_video(
        video,
        target,
        tokenizer,
        decode,
        side_by_side=side_by_side,
        with_sound=sound,
        sample=sample,
        options=options,
    )
    console = Console(emoji=False)
    console.print(
        f"Wrote {done.num_frames} frames to {target}, {done.psnr:.2f} dB to the original", markup=False, soft_wrap=True
    )
    if done.damage is not None:
        Console(stderr=True, emoji=False).print(f"The video ends there: {done.damage}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _loaded(
    model: str | None, checkpoint: str | None, device: str | None, dtype: Dtype, options: dict[str, Any]
) -> "tuple[VideoTokenizer, Weights]":
    import torch

    from pipeline.encode import TORCH_DTYPES, set_arithmetic
    from pipeline.weights import load_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    set_arithmetic(dtype.value)
    return load_model(model, checkpoint, device=device, dtype=TORCH_DTYPES[dtype.value], options=options)


def _check_sample(sample: bool, config: "TokenizerConfig") -> None:
    if sample and config.is_discrete:
        raise ConfigError(f"--sample: {config.name} is an FSQ model, whose latents are no distribution")


def _checked_size(size: int, config: "TokenizerConfig") -> int:
    if size % config.spatial_factor:
        raise ConfigError(f"--size {size}: {config.name} takes multiples of {config.spatial_factor}")
    return size


def evaluate(
    data: Annotated[str, typer.Option(help="Videos: a folder, files, or WebDataset tars; a path, glob or URL.")],
    model: Model = None,
    checkpoint: Checkpoint = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the page, the CSV and the JSON go.")] = Path(
        "evaluation"
    ),
    size: Annotated[int, typer.Option(min=11, help="Pixels of the middle square that is evaluated.")] = 256,
    fps: Annotated[
        float, typer.Option(min=0.001, help="Every n-th frame that comes nearest to so many a second.")
    ] = 30,
    sample: Sample = False,
    seed: Annotated[int, typer.Option(help="Of --sample.")] = 42,
    lpips: Annotated[
        list[Path] | None, typer.Option("--lpips", help="LPIPS's weights: VGG16's and LPIPS's own; may be repeated.")
    ] = None,
    fvd: Annotated[Path | None, typer.Option("--fvd", help="FVD's network: i3d_torchscript.pt.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Of how many videos the page has pictures.")] = 8,
    device: Device = None,
    dtype: DtypeOption = Dtype.FP32,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Judge a model on videos: PSNR, SSIM, LPIPS, FVD, as the published figures are taken, and a page to look at.

    Videos that cannot be decoded to their end are told of, and count nowhere.
    """
    check_extra("report", "the page")
    from jobs.evaluation_run import EvaluationSettings, run_evaluation

    options = {"endpoint_url": endpoint_url, "anon": anon or None}
    tokenizer, weights = _loaded(model, checkpoint, device, dtype, options)
    _check_sample(sample, tokenizer.config)
    settings = EvaluationSettings(
        data=data,
        folder=folder,
        size=_checked_size(size, tokenizer.config),
        fps=fps,
        sample=sample,
        seed=seed,
        lpips=lpips or [],
        i3d=fvd,
        num_pictured=pictures,
        dtype=dtype.value,
    )
    run_evaluation(Console(emoji=False), settings, tokenizer, weights, options)


def train(
    job: Annotated[Path, typer.Argument(help="The training job file (YAML).")],
    assignments: Assignments = None,
) -> None:
    """Train one stage of a model, or go on with one that stopped."""
    check_extra("train", "training")
    from jobs.train import run_training
    from jobs.train_config import TrainingJob
    from pipeline.job_file import load_file

    model = run_training(load_file(job, assignments or [], TrainingJob))
    Console(emoji=False).print(f"The model is {model}", markup=False, soft_wrap=True)
