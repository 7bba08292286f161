"""What an evaluation found, as files: CSV and JSON, and a page that needs nothing beside it."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.evaluation import METRICS, Evaluation, VideoScore
from jobs.pages import picture_url, render
from jobs.plots import COLOURS, svg_of
from pipeline.records import Frames
from vidtok_model.published import PUBLISHED_QUALITY

__all__ = ["REPORT_FILES", "figures", "write_report"]

REPORT_FILES = ("videos.csv", "evaluation.json", "index.html")

_TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "fvd": "FVD"}
_DIGITS = {"psnr": 2, "ssim": 3, "lpips": 3, "fvd": 1}
_MOST_BARS = 40


def figures(evaluation: Evaluation, model: str) -> list[dict[str, Any]]:
    """One row a metric: its title, what was found, and what is published of the model; both may be None."""
    found: dict[str, float | None] = {**evaluation.overall(), "fvd": evaluation.fvd}
    published = asdict(PUBLISHED_QUALITY[model]) if model in PUBLISHED_QUALITY else {}
    return [
        {
            "title": _TITLES[name],
            "found": _text(name, found.get(name)),
            "published": _text(name, published.get(name)),
        }
        for name in (*METRICS, "fvd")
    ]


def write_report(folder: Path, evaluation: Evaluation, about: Mapping[str, Any]) -> Path:
    """Writes the REPORT_FILES; returns the page's path.

    Args:
        folder: where to.
        evaluation: what was found; at least one video.
        about: the model and how it was evaluated, in plain JSON types; `model` is its name.

    Raises:
        OSError: nothing can be written there.
    """
    table_path, json_path, page_path = (folder / name for name in REPORT_FILES)
    with table_path.open("w", newline="") as file:
        metrics = list(evaluation.scores[0].means)
        table = csv.writer(file)
        table.writerow(["video", "frames", "clips", *metrics])
        for score in evaluation.scores:
            numbers = [f"{score.means[name]:.6f}" for name in metrics]
            table.writerow([score.name, score.num_frames, _num_clips(score), *numbers])
    json_path.write_text(json.dumps(_plain(evaluation, about), indent=1))
    page_path.write_text(_page(evaluation, about))
    return page_path


def _plain(evaluation: Evaluation, about: Mapping[str, Any]) -> dict[str, Any]:
    model = about["model"]
    return {
        **about,
        "overall": {**evaluation.overall(), "fvd": evaluation.fvd, "fvd_clips": evaluation.fvd_clips},
        "published": asdict(PUBLISHED_QUALITY[model]) if model in PUBLISHED_QUALITY else None,
        "videos": [
            {
                "video": score.name,
                "frames": score.num_frames,
                "clips": _num_clips(score),
                **score.means,
                "clip_means": score.clip_means,
            }
            for score in evaluation.scores
        ],
        "failures": [{"video": name, "reason": reason} for name, reason in evaluation.failures],
    }


def _page(evaluation: Evaluation, about: Mapping[str, Any]) -> str:
    metrics = list(evaluation.scores[0].means)
    pictured = [score for score in evaluation.scores if score.pictures]
    rows = [
        [score.name, score.num_frames, _num_clips(score), *(_text(name, score.means[name]) for name in metrics)]
        for score in evaluation.scores
    ]
    return render(
        "evaluation.html.j2",
        about=about,
        figures=figures(evaluation, about["model"]),
        columns=["video", "frames", "clips", *(_TITLES[name] for name in metrics)],
        rows=rows,
        failures=evaluation.failures,
        plots=[_by_video(evaluation.scores), *([_by_frame(pictured)] if pictured else [])],
        pictured=[
            {"name": score.name, "psnr": _text("psnr", score.means["psnr"]), "picture": _picture(score.pictures)}
            for score in pictured
        ],
    )


def _num_clips(score: VideoScore) -> int:
    return len(score.clip_means["psnr"])


def _text(metric: str, value: float | None) -> str | None:
    return None if value is None else f"{value:.{_DIGITS[metric]}f}"


def _picture(pairs: Sequence[tuple[Frames, Frames]]) -> str:
    """Frames side by side, those that went in above those that came back, as a data URL."""
    rows = [np.concatenate([pair[row] for pair in pairs], axis=1) for row in (0, 1)]
    return picture_url(np.concatenate(rows))


def _by_video(scores: Sequence[VideoScore]) -> str:
    """PSNR and SSIM of each video, the worst first; of many, how they are spread."""
    many = len(scores) > _MOST_BARS
    figure = Figure(figsize=(9, 3.2 if many else 1.2 + 0.22 * len(scores)), layout="constrained")
    ranked = sorted(scores, key=lambda score: score.means["psnr"])
    for axes, name, colour in zip(_axes(figure), ("psnr", "ssim"), COLOURS, strict=True):
        values = [score.means[name] for score in ranked]
        if many:
            axes.hist(values, bins=30, color=colour)
            axes.set_ylabel("videos")
        else:
            axes.barh(range(len(values)), values, color=colour)
            axes.set_yticks(range(len(values)), [_shortened(score.name) for score in ranked])
            axes.invert_yaxis()
        axes.set_xlabel(_TITLES[name])
    return svg_of(figure, "PSNR and SSIM of each video")


def _axes(figure: Figure) -> tuple[Axes, Axes]:
    left, right = figure.subplots(1, 2, sharey=True)
    return left, right


def _by_frame(scores: Sequence[VideoScore]) -> str:
    """PSNR over time, of the videos that are pictured."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for score in scores:
        axes.plot(score.frame_psnrs, linewidth=1, label=_shortened(score.name))
    axes.set_xlabel("frame")
    axes.set_ylabel(_TITLES["psnr"])
    axes.legend(fontsize="x-small")
    return svg_of(figure, "PSNR of each frame")


def _shortened(name: str) -> str:
    # A name that begins with _ would be left out of a legend, and $ begins mathematics.
    plain = name.replace("$", r"\$").lstrip("_")
    return plain if len(plain) <= 28 else f"...{plain[-25:]}"
