"""The commands of the `vidtok` command line that are about models and their weights, not about a job or its dataset."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.display import human_bytes
from jobs.options import Anon, EndpointUrl

__all__ = ["convert", "models"]


def models() -> None:
    """List the released models."""
    from vidtok_model import MODELS

    table = Table("model", "kind", "causal", "T x H x W", "latent channels", "codebook", "clip frames")
    for name, config in MODELS.items():
        factors = f"{config.time_factor} x {config.spatial_factor} x {config.spatial_factor}"
        codebook = f"{config.codebook_size:,}" if config.codebook_size else ""
        kind = "FSQ tokens" if config.is_discrete else "KL latents"
        causal = "yes" if config.is_causal else "no"
        table.add_row(name, kind, causal, factors, str(config.latent_channels), codebook, str(config.clip_frames))
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
