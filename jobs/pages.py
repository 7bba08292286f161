"""What our pages share: templates with one style sheet, and pictures that stand in the page itself."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pipeline.records import Frames

__all__ = ["picture_url", "render"]


def render(template: str, **values: Any) -> str:
    """A page of a template of this folder; values are escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True).get_template(template).render(**values)


def picture_url(pixels_HWC: Frames) -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
