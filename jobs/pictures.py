"""Pictures as a page holds them: in the page itself."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from pipeline.records import Frames

__all__ = ["animation_url", "jpeg_url"]


def jpeg_url(frame_HWC: Frames, *, quality: int = 90) -> str:
    """A frame as a data URL."""
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=quality)
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
