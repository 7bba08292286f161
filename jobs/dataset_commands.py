"""The commands of the `vidtok` command line that change which rows a dataset gives, and to whom."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.options import EndpointUrl
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.dataset import Dataset

__all__ = ["merge", "remove", "split"]

Root = Annotated[str, typer.Argument(help="A dataset's root.")]


def _opened(root: str, endpoint_url: str | None) -> "Dataset":
    from pipeline.dataset import Dataset  # Arrow takes a second to import
    from pipeline.storage import open_store

    return Dataset.open(open_store(root, {"endpoint_url": endpoint_url}))


def _print(line: str) -> None:
    # Off a terminal nothing may be cut to the width of one.
    console = Console(width=None if sys.stdout.isatty() else 200, emoji=False)
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def remove(
    dataset: Root,
    key: Annotated[list[str] | None, typer.Option("--key", help="A video's source_key; may be repeated.")] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="A file of source keys, one a line.")] = None,
    shard: Annotated[str | None, typer.Option(help="Only videos of this source_shard.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to remove.")] = False,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Take videos down: no reader gives their rows from then on; `vidtok gc --rewrite --remove` erases them."""
    from pipeline.removal import remove_videos

    wanted = [*(key or []), *(_lines(keys) if keys is not None else [])]
    if not wanted:
        raise ConfigError("vidtok remove takes source keys: --key KEY, or --keys FILE with one a line; found none")
    done = remove_videos(_opened(dataset, endpoint_url), wanted, source_shard=shard, dry_run=dry_run)
    for name in done.unknown:
        _print(f"{name!r}: no committed row has this source key")
    for name in done.before:
        _print(f"{name!r}: all its rows were removed before")
    for reason in done.unread:
        _print(f"not looked at: {reason}")
    if not done.rows:
        _print("nothing to remove")
    said = "would be removed, without --dry-run" if dry_run else "removed; `vidtok gc --rewrite --remove` erases them"
    if done.rows:
        _print(f"{done.rows:,} rows of {done.videos:,} videos: {said}")
    if done.unread:
        raise typer.Exit(1)


def _lines(path: Path) -> list[str]:
    try:
        # An editor's byte order mark is of no key, and a key may hold what `splitlines` takes for the end of a line.
        return [line for line in path.read_text("utf-8-sig").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys {path}: cannot be read: {error}") from None


def split(
    dataset: Root,
    validation: Annotated[float, typer.Option(help="The share of the videos that are for validation.")],
    seed: Annotated[int, typer.Option(help="Another one chooses other videos.")] = 0,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Divide a dataset by video into train and validation, or what came to it since it was divided."""
    from pipeline.splits import SIDES, split_dataset

    done = split_dataset(_opened(dataset, endpoint_url), validation=validation, seed=seed)
    for side in SIDES:
        _print(f"{side}: {done.rows[side]:,} rows of {done.videos[side]:,} videos")
    _print(f"{done.added:,} row groups were divided just now")


def merge(
    out: Annotated[str, typer.Argument(help="The root of the merged dataset: a new one, or one of the same plan.")],
    datasets: Annotated[list[str], typer.Argument(help="Roots of datasets of one plan.")],
    endpoint_url: EndpointUrl = None,
) -> None:
    """Copy the committed shards of datasets into one, with what was removed of them; run it again to go on."""
    from pipeline.merging import merge_datasets
    from pipeline.storage import open_store

    store = open_store(out, {"endpoint_url": endpoint_url})
    done = merge_datasets(store, [_opened(root, endpoint_url) for root in datasets])
    stood = f"; {done.standing:,} were there already, or in two of them" if done.standing else ""
    _print(f"{done.shards:,} shards of {done.rows:,} rows merged into {store.root}{stood}")
