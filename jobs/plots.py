"""Plots as a page holds them, in the page's own colours, light or dark."""

import io
import warnings
from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

__all__ = ["COLOURS", "GREY", "WHOLE", "bars", "new_figure", "plain", "svg_of"]

COLOURS = ("#1f5fa8", "#c2571a")
GREY = "#5b636d"
WHOLE = StrMethodFormatter("{x:,.0f}")
_MOST_BARS = 40
# What page.css calls the colours; where a page does not, they are these.
_VARIABLES = {COLOURS[0]: "--blue", COLOURS[1]: "--orange", GREY: "--muted"}


def new_figure(height: float, *, width: float = 9, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches, and its axes, as `Figure.subplots` gives them."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)


def plain(axes: Axes) -> None:
    """Takes away what is only a frame."""
    axes.spines[["top", "right"]].set_visible(False)


def bars(counts: Mapping[str, int], quantity: str, name: str, colour: str) -> str | None:
    """Bars of the largest counts, which come first; None where there are none."""
    if not counts:
        return None
    names, values = list(counts)[:_MOST_BARS], list(counts.values())[:_MOST_BARS]
    figure, axes = new_figure(1.1 + 0.26 * len(names))
    drawn = axes.barh(range(len(names)), values, color=colour, height=0.7)
    axes.bar_label(drawn, labels=[f"{value:,}" for value in values], padding=3, fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(WHOLE)
    axes.set_xlabel(quantity)
    axes.set_title(name, loc="left", fontsize="small", color=GREY)
    plain(axes)
    return svg_of(figure, f"{quantity} by {name}")


def svg_of(figure: Figure, label: str) -> str:
    """A figure as an SVG element, which a page may hold as it is; `label` says in words what it shows."""
    file = io.StringIO()
    with warnings.catch_warnings():
        # Names in letters that its font lacks; the browser draws them all in the table.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    written = file.getvalue()
    written = written[written.index("<svg") :]  # without what a file begins with, which a page may not hold
    for colour, variable in _VARIABLES.items():
        written = written.replace(colour, f"var({variable}, {colour})")
    # Black is the page's ink, also where it is only what is not said.
    written = written.replace("#000000", "currentColor")
    return written.replace("<svg", f'<svg fill="currentColor" role="img" aria-label="{escape(label)}"', 1)
