"""`vidtok preview`: some clips of a job through its model and back, on a page, before the job starts."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.display import CountDisplay, human_bytes
from jobs.extras import check_page
from jobs.logs import log_to
from jobs.options import Assignments
from jobs.planning import about_plan, checked_plan

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.previews import Preview

__all__ = ["preview"]


def preview(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).")],
    assignments: Assignments = None,
    count: Annotated[int, typer.Option("-n", "--clips", min=1, help="Clips to show, of as many videos.")] = 8,
    page: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("preview.html"),
    opens: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open it in a browser; by default on a terminal.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Show some clips of a job beside what its model gives back of them, on a page. Nothing else is written."""
    err = Console(stderr=True, emoji=False)
    log_to(err)
    planned = checked_plan(job, assignments or [])
    check_page(page, "--out")
    page.write_text(_page(err, planned, count, seed), encoding="utf-8")
    size = human_bytes(page.stat().st_size)
    Console(emoji=False).print(f"The page is {page} ({size})", markup=False, highlight=False, soft_wrap=True)
    if sys.stdout.isatty() if opens is None else opens:
        webbrowser.open(page.resolve().as_uri())


def _page(err: Console, planned: "Plan", count: int, seed: int) -> str:
    import torch

    from jobs.preview_page import page_of
    from pipeline.previews import choose_clips, previews
    from pipeline.sampling import draw_videos
    from pipeline.weights import load_job_weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_job_weights(planned.config, planned.description, device=device, has_decoder=True)
    shards = [shard for shard in planned.standing or planned.found if shard.only is None]
    with CountDisplay(err, "videos sampled") as on_progress:
        sample = draw_videos(planned, shards, count, seed)
        chosen = choose_clips(sample, count, seed, num_decoders=os.cpu_count() or 1, on_progress=on_progress)
    shown: list[Preview] = []
    with CountDisplay(err, "clips encoded and decoded") as on_progress:
        for one in previews(chosen.clips, planned.config, tokenizer):
            shown.append(one)
            on_progress(len(shown), len(chosen.clips))
    psnrs = [one.psnr for one in shown if one.decoded_THWC is not None]
    mean = f"{sum(psnrs) / len(psnrs):.2f} dB, the mean of {len(psnrs)} clips" if psnrs else "none"
    facts = {**about_plan(planned), "computed on": device, "PSNR": mean}
    return page_of(planned.config.model.name, facts, shown, chosen.rejects)
