"""A worker's look at itself: does its device compute what it should?"""

import functools
import socket
import time

import torch

from pipeline.encode import TORCH_DTYPES
from pipeline.errors import WorkerUnfit
from vidtok_model import VideoTokenizer
from vidtok_model.golden import golden_difference, golden_tokenizer

__all__ = ["SelfCheck"]

_EVERY_SECONDS = 3600.0
# The largest difference that the arithmetic explains. Measured on a CPU: 1.4e-6, 2.6e-3 (fp16) and 2.7e-2 (bf16).
_TOLERANCES = {"fp32": 1e-3, "tf32": 0.03, "fp16": 0.03, "bf16": 0.25}


class SelfCheck:
    """Encodes a golden clip with a golden model, now and then, and compares with what is carried."""

    def __init__(self, *, device: str, dtype: str) -> None:
        """Checks at once.

        Args:
            device: a torch device.
            dtype: fp32, tf32, bf16 or fp16.

        Raises:
            WorkerUnfit: it does not compute what it should.
        """
        self._device = device
        self._dtype = dtype
        self.check()

    def check(self) -> None:
        """Checks now; see above for errors."""
        difference, most = golden_difference(_golden(self._device, self._dtype)), _TOLERANCES[self._dtype]
        if not difference <= most:  # NaN too
            raise WorkerUnfit(
                f"the worker on {socket.gethostname()} ({self._device}, {self._dtype}) computes wrongly: the golden "
                f"clip differs by {difference:.3g}, at most {most} is explained by its arithmetic; it writes nothing"
            )
        self._checked = time.monotonic()

    def if_due(self, is_suspect: bool = False) -> None:
        """Checks where an hour has passed since it last did, or something looks wrong; see above for errors."""
        if is_suspect or time.monotonic() - self._checked >= _EVERY_SECONDS:
            self.check()


@functools.cache
def _golden(device: str, dtype: str) -> VideoTokenizer:
    return golden_tokenizer().to(device=torch.device(device)).compute_in(TORCH_DTYPES[dtype])
