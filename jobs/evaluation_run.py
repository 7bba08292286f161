"""One evaluation from the videos' path to the written page."""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.evaluation import Evaluation, Evaluator
from jobs.evaluation_report import REPORT_FILES, figures, write_report
from pipeline.checkpoints import Weights
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.errors import ConfigError, SampleError
from pipeline.secrets import redact_url
from pipeline.video_sources import find_videos
from vidtok_model import VideoTokenizer
from vidtok_model.metrics import load_i3d, load_lpips
from vidtok_model.metrics.i3d import I3D_SOURCE
from vidtok_model.metrics.lpips import LPIPS_SOURCES

__all__ = ["EvaluationSettings", "run_evaluation"]

# Videos decoded at a time, while the model works on the one before.
_DECODERS = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is evaluated, and how.

    Attributes:
        data: where the videos are.
        folder: where the page goes.
        size: pixels of the middle square.
        fps: see `Evaluator.run`.
        sample: whether latents are samples.
        seed: of these.
        lpips: files of LPIPS's weights; none: it is not taken.
        i3d: file of FVD's network; None: it is not taken.
        num_pictured: of how many videos the page has pictures.
        dtype: of the model.
    """

    data: str
    folder: Path
    size: int
    fps: float
    sample: bool
    seed: int
    lpips: list[Path]
    i3d: Path | None
    num_pictured: int
    dtype: str


def run_evaluation(
    console: Console,
    settings: EvaluationSettings,
    tokenizer: VideoTokenizer,
    weights: Weights,
    options: Mapping[str, Any],
) -> None:
    """Evaluates, prints what was found beside what is published, and writes the page, the CSV and the JSON.

    Raises:
        ConfigError: there are no videos, a network's weights are not there or not its own, or nothing can be written.
        SampleError: no video could be decoded.
        ShardError, StorageError: they cannot be read.
    """
    device = next(tokenizer.parameters()).device
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        for name in REPORT_FILES:
            (settings.folder / name).open("a").close()  # told before the work is done
        lpips = load_lpips(settings.lpips, device=device) if settings.lpips else None
        i3d = None if settings.i3d is None else load_i3d(settings.i3d, device)
        evaluator = Evaluator(
            tokenizer,
            size=settings.size,
            sample=settings.sample,
            seed=settings.seed,
            lpips=lpips,
            i3d=i3d,
            num_pictured=settings.num_pictured,
        )
    except OSError as error:
        raise ConfigError(f"--out {settings.folder}: cannot be written: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    evaluation = _evaluated(console, settings, evaluator, options)
    page = write_report(settings.folder, evaluation, _about(settings, tokenizer, weights))
    _show(console, evaluation, tokenizer.config.name, settings)
    console.print(f"Wrote {page}", markup=False, soft_wrap=True)


def _evaluated(
    console: Console, settings: EvaluationSettings, evaluator: Evaluator, options: Mapping[str, Any]
) -> Evaluation:
    evaluation = Evaluation()
    threads = max(1, (os.cpu_count() or 1) // _DECODERS)
    videos = find_videos(settings.data, options)
    num_told = 0
    with closing(DecoderPool(_DECODERS, DecoderLimits())) as decoder:
        for evaluation in evaluator.run(videos, decoder, fps=settings.fps, threads=threads):
            if len(evaluation.scores) > num_told:
                score = evaluation.scores[-1]
                figures = ", ".join(f"{name} {value:.3f}" for name, value in score.means.items())
                console.print(f"{score.name}: {score.num_frames} frames, {figures}", markup=False, soft_wrap=True)
            else:
                name, reason = evaluation.failures[-1]
                console.print(f"[red]{escape(name)}[/]: {escape(reason)}", soft_wrap=True)
            num_told = len(evaluation.scores)
    if not evaluation.scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in evaluation.failures)
        raise SampleError("decode", "unreadable", f"no video of {settings.data} has figures: {reasons[:500]}")
    return evaluation


def _about(settings: EvaluationSettings, tokenizer: VideoTokenizer, weights: Weights) -> dict[str, Any]:
    config = tokenizer.config
    latents = "tokens" if config.is_discrete else "samples" if settings.sample else "means"
    unit = "one stream a video" if config.version == "1.1" else f"clips of {config.clip_frames} frames"
    return {
        "model": config.name,
        "weights": f"{weights.checkpoint} ({weights.identity if weights.is_random else f'sha256 {weights.identity}'})",
        "data": redact_url(settings.data),
        "frames": f"every n-th, nearest to {settings.fps:g} a second; {settings.size}x{settings.size}; {unit}",
        "decoded from": latents + (f", seed {settings.seed}" if latents == "samples" else ""),
        "arithmetic": f"{settings.dtype} on {next(tokenizer.parameters()).device.type}",
        "versions": f"vidtok-pipeline {version('vidtok-pipeline')}, torch {torch.__version__}",
    }


def _show(console: Console, evaluation: Evaluation, model: str, settings: EvaluationSettings) -> None:
    videos = len(evaluation.scores)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"{model}, {videos} video{'s' if videos > 1 else ''}", no_wrap=True)
    for name in ("found", "published, MCL-JCV"):
        table.add_column(name, justify="right")
    for row in figures(evaluation, model):
        table.add_row(row["title"], row["found"] or "not taken", row["published"] or "")
    console.print(table)
    if not settings.lpips:
        console.print(f"LPIPS was not taken, for want of --lpips: {LPIPS_SOURCES}", markup=False, soft_wrap=True)
    if settings.i3d is None:
        console.print(f"FVD was not taken, for want of --fvd: {I3D_SOURCE}", markup=False, soft_wrap=True)
    elif evaluation.fvd is None:
        console.print(f"FVD wants 2 clips at least; there were {evaluation.fvd_clips}", markup=False, soft_wrap=True)
