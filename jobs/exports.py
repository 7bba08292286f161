"""The `vidtok export` command line: a dataset in the forms that other programs train on."""

import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from jobs.options import Anon, EndpointUrl

__all__ = ["export"]

_out = Console(width=None if sys.stdout.isatty() else 200, emoji=False)

export = typer.Typer(help="Write a dataset in the forms that other programs read.", no_args_is_help=True)


class Side(StrEnum):
    """Of a split."""

    TRAIN = "train"
    VALIDATION = "validation"


DatasetRoot = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset's root.")]
Split = Annotated[Side | None, typer.Option(help="Rows of one side of a split alone.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an export that stands there.")]


@export.command("megatron")
def export_megatron(
    dataset: DatasetRoot,
    prefix: Annotated[str, typer.Argument(help="A local path, behind which .bin, .idx and .json are put.")],
    offset: Annotated[int, typer.Option(help="The first id of video; those below are the text's.")] = 0,
    order: Annotated[str, typer.Option(help="In which order a grid is read, the outermost axis first.")] = "thw",
    digits: Annotated[bool, typer.Option("--digits", help="Write each token as its FSQ digits.")] = False,
    frame_ends: Annotated[bool, typer.Option(help="Write an id behind each latent frame.")] = True,
    split: Split = None,
    overwrite: Overwrite = False,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Write an indexed dataset of Megatron-LM: a document for each row, with the ids of `Vocabulary`."""
    from pipeline.exports import megatron

    written = megatron.export_megatron(
        dataset,
        prefix,
        vocabulary={"offset": offset, "order": order, "digits": digits, "frame_ends": frame_ends},
        split=split,
        overwrite=overwrite,
        storage={"endpoint_url": endpoint_url, "anon": anon or None},
    )
    _say(f"Wrote {written.rows:,} rows, {written.tokens:,} tokens, to {prefix}.bin, .idx and .json")


@export.command("webdataset")
def export_webdataset(
    dataset: DatasetRoot,
    target: Annotated[str, typer.Argument(help="A folder of any store, of its own.")],
    rows_per_shard: Annotated[int, typer.Option(help="Rows of a tar, which stands in memory until it is put.")] = 1000,
    split: Split = None,
    overwrite: Overwrite = False,
    endpoint_url: EndpointUrl = None,
    anon: Anon = False,
) -> None:
    """Write WebDataset tars: tokens.npy or latents.npy, txt (the caption) and json of each row."""
    from pipeline.exports import webdataset

    written = webdataset.export_webdataset(
        dataset,
        target,
        rows_per_shard=rows_per_shard,
        split=split,
        overwrite=overwrite,
        storage={"endpoint_url": endpoint_url, "anon": anon or None},
        target_storage={"endpoint_url": endpoint_url},
    )
    _say(f"Wrote {written.rows:,} rows, {written.tokens:,} tokens, to {target}")


@export.command("delta")
def export_delta(dataset: DatasetRoot, endpoint_url: EndpointUrl = None) -> None:
    """Make the dataset a Delta table too, in place: _delta_log/ names its own parts. Again after each job."""
    from pipeline.exports import delta

    version = delta.export_delta(dataset, storage={"endpoint_url": endpoint_url})
    added = version.added
    said = f"adds {added.rows:,} rows, {added.tokens:,} tokens" if version.is_new else "has all rows: nothing to do"
    _say(f"Version {version.number} of the Delta table {said}")


def _say(line: str) -> None:
    _out.print(line, markup=False, highlight=False, soft_wrap=True)
