"""A dataset's statistics as one page with plots, which needs nothing beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import LogFormatter

from jobs.pages import render
from jobs.plots import COLOURS, GREY, WHOLE, bars, new_figure, plain, svg_of
from jobs.statistics import code_facts, facts
from pipeline.code_usage import CodeUsage, DigitUsage
from pipeline.dataset_statistics import DatasetStatistics
from pipeline.statistics import LatentStatistics

__all__ = ["digits_plot", "latents_plot", "page_of", "ranks_plot"]

_MOST_SOURCES = 100
_DIGITS_A_LINE = 5


def page_of(root: str, found: DatasetStatistics) -> str:
    """The page as HTML.

    Args:
        root: the dataset's, as it is shown.
        found: what is shown.
    """
    codes = found.codes if found.codes is not None and found.codes.tokens else None
    shapes = sorted((shape for shape in found.rows.shapes if shape["rows"]), key=lambda shape: -shape["rows"])
    buckets = {"x".join(map(str, shape["shape"])): shape["rows"] for shape in shapes}
    return render(
        "statistics.html.j2",
        facts=facts(root, found),
        model=found.model,
        codes=codes and code_facts(codes),
        ranks_plot=codes and ranks_plot(codes),
        digits_plot=codes and digits_plot(codes.digits, codes.tokens),
        latents_plot=found.latents and latents_plot(found.latents),
        latents=found.latents,
        buckets=buckets,
        buckets_plot=bars(buckets, "rows", "latent shape, T x H x W", COLOURS[0]),
        rejects=found.committed.rejects_by_class,
        rejects_plot=bars(found.committed.rejects_by_class, "rejects", "class", COLOURS[1]),
        sources=found.committed.sources[:_MOST_SOURCES],
        num_sources=len(found.committed.sources),
    )


def ranks_plot(codes: CodeUsage) -> str:
    """Counts of codes by falling frequency; as many codes as all tokens would fill evenly beside it."""
    figure, axes = new_figure(3.6)
    ranks, counts = ([point[name] for point in codes.ranks] for name in ("rank", "count"))
    axes.loglog(ranks, counts, color=COLOURS[0], marker="." if len(ranks) < 20 else None)
    even = codes.tokens / codes.codebook_size
    if even >= 0.1:  # of a codebook larger than that, it would only press the rest together
        axes.axhline(even, color=GREY, linewidth=1, linestyle="--")
        axes.annotate(
            "if all codes were as frequent",
            (0, even),
            xycoords=("axes fraction", "data"),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            color=GREY,
            fontsize="small",
        )
    axes.yaxis.set_major_formatter(WHOLE)
    axes.yaxis.set_minor_formatter(LogFormatter())  # of less than a decade it labels more
    axes.set_xlabel("rank of a code by frequency")
    axes.set_ylabel("tokens of that code")
    axes.grid(alpha=0.25)
    plain(axes)
    return svg_of(figure, "counts of codes by falling frequency")


def digits_plot(digits: Sequence[DigitUsage], tokens: int) -> str:
    """Shares of each digit's values, a small plot each."""
    lines = -(-len(digits) // _DIGITS_A_LINE)
    width = -(-len(digits) // lines)
    figure, grid = new_figure(0.5 + 2.0 * lines, nrows=lines, ncols=width, sharey=True, squeeze=False)
    for axes in grid.flat[len(digits) :]:
        axes.set_visible(False)
    for number, (axes, digit) in enumerate(zip(grid.flat, digits, strict=False)):
        axes.bar(range(digit.levels), [100 * count / tokens for count in digit.counts], color=COLOURS[0])
        axes.axhline(100 / digit.levels, color=GREY, linewidth=1, linestyle="--")
        axes.set_title(f"digit {number}: {digit.entropy_bits:.2f} of {np.log2(digit.levels):.2f} bits", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=7)
        plain(axes)
    figure.supxlabel("value of the digit", fontsize=9)
    figure.supylabel("share of tokens, %", fontsize=9)
    return svg_of(figure, "share of tokens of each value of each digit of the codes")


def latents_plot(latents: LatentStatistics) -> str:
    """Mean and deviation of each channel, of first latent frames and the rest."""
    figure, (left, right) = new_figure(3.4, nrows=1, ncols=2)
    kinds = (("first latent frame", latents.first), ("rest", latents.rest))
    take: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (left, "mean", lambda channels: channels.mean_C),
        (right, "standard deviation", lambda channels: channels.std_C),
    )
    for axes, name, values_of in take:
        for side, ((label, channels), colour) in enumerate(zip(kinds, COLOURS, strict=True)):
            values_C = values_of(channels)
            axes.bar(np.arange(len(values_C)) + 0.4 * side - 0.2, values_C, 0.38, color=colour, label=label)
        axes.set_xlabel("channel")
        axes.set_ylabel(f"{name} of the latents")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.axhline(0, color=GREY, linewidth=0.8)
        plain(axes)
    left.legend(fontsize="small", frameon=False)
    return svg_of(figure, "mean and standard deviation of each latent channel")
