"""What our pages share: templates with one style sheet, and pictures that stand in the page itself."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pipeline.records import Frames

__all__ = ["animation_url", "picture_url", "render"]


def render(template: str, **values: Any) -> str:
    """A page of a template of this folder; values are escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True).get_template(template).render(**values)


def picture_url(pixels_HWC: Frames) -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=90)
    return _url("jpeg", file)


def animation_url(frames_THWC: Frames, milliseconds: Sequence[int], *, quality: int = 70) -> str:
    """Frames that move, each shown for its time, again and again: WebP as a data URL."""
    file = io.BytesIO()
    first, *others = map(Image.fromarray, frames_THWC)
    times = {"duration": list(milliseconds), "loop": 0}
    first.save(file, "WEBP", save_all=True, append_images=others, quality=quality, method=2, **times)
    return _url("webp", file)


def _url(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
