"""Plots as a page holds them."""

import io
import warnings

from matplotlib.figure import Figure

__all__ = ["svg_of"]


def svg_of(figure: Figure) -> str:
    """A figure as an SVG element, which a page may hold as it is."""
    file = io.StringIO()
    with warnings.catch_warnings():
        # Names in letters that its font lacks; the browser draws them all in the table.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None})
    written = file.getvalue()
    return written[written.index("<svg") :]  # without what a file begins with, which a page may not hold
