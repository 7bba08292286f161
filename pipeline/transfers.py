"""Clips on their way to a device, and what becomes of them on its way back.

On a GPU both are under way while it computes: frames go as uint8, a quarter of what floats would be, from pinned memory
on a stream of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.records import Clip

__all__ = ["CpuTransfer", "CudaTransfer", "Transfer"]

Arrays = list[npt.NDArray[Any]]
# Frames are copied from one buffer while the next batch is put into the other.
_BUFFERS = 2


class Transfer(Protocol):
    """To a device and back.

    Attributes:
        num_ahead: batches that may be sent before the results of an earlier one are taken.
    """

    num_ahead: int

    def send(self, clips: Sequence[Clip], batch_size: int) -> torch.Tensor:
        """The clips' frames on the device, uint8 (batch_size, T, H, W, 3); those that are missing are black."""
        ...

    def fetch(self, results: Sequence[torch.Tensor]) -> Callable[[], Arrays]:
        """Starts to bring results back; what it returns waits for them. They may be used as long as one likes."""
        ...


class CpuTransfer:
    """To where the clips are already."""

    num_ahead = 0

    def send(self, clips: Sequence[Clip], batch_size: int) -> torch.Tensor:
        """See Transfer."""
        frames_BTHWC = np.empty((batch_size, *clips[0].frames_THWC.shape), np.uint8)
        _fill(frames_BTHWC, clips)
        return torch.from_numpy(frames_BTHWC)

    def fetch(self, results: Sequence[torch.Tensor]) -> Callable[[], Arrays]:
        """See Transfer."""
        arrays = [result.numpy() for result in results]
        return lambda: arrays


class CudaTransfer:
    """To an NVIDIA GPU and back."""

    num_ahead = 1

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """Takes no memory yet.

        Args:
            device: which GPU.
            cuda: PyTorch's module, or a stand-in that tests can look into.
        """
        self._device = device
        self._cuda = cuda
        self._copying = cuda.Stream(device)
        self._buffers: list[tuple[torch.Tensor, Any]] = []  # with the event after which each may be filled again

    def send(self, clips: Sequence[Clip], batch_size: int) -> torch.Tensor:
        """See Transfer."""
        shape = (batch_size, *clips[0].frames_THWC.shape)
        buffer, is_copied = self._free_buffer(shape)
        _fill(buffer.numpy(), clips)
        computing = self._cuda.current_stream(self._device)
        with self._cuda.stream(self._copying):
            frames = buffer.to(self._device, non_blocking=True)
            is_copied.record(self._copying)
        computing.wait_event(is_copied)
        if frames.is_cuda:
            frames.record_stream(computing)  # or its memory would be given away while it is computed with
        return frames

    def _free_buffer(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, Any]:
        if len(self._buffers) == _BUFFERS:
            buffer, is_copied = self._buffers.pop(0)
            is_copied.synchronize()
        else:
            buffer, is_copied = self._pinned((0,), torch.uint8), self._cuda.Event(blocking=True)
        if buffer.shape != shape:
            buffer = self._pinned(shape, torch.uint8)
        self._buffers.append((buffer, is_copied))
        return buffer, is_copied

    def _pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())

    def fetch(self, results: Sequence[torch.Tensor]) -> Callable[[], Arrays]:
        """See Transfer."""
        held = [self._pinned(result.shape, result.dtype).copy_(result, non_blocking=True) for result in results]
        is_fetched = self._cuda.Event(blocking=True)  # or the wait would take a core
        is_fetched.record(self._cuda.current_stream(self._device))

        def wait() -> Arrays:
            is_fetched.synchronize()
            return [array.numpy().copy() for array in held]  # pinned memory is scarce

        return wait


def _fill(frames_BTHWC: npt.NDArray[np.uint8], clips: Sequence[Clip]) -> None:
    for slot, clip in zip(frames_BTHWC, clips, strict=False):
        slot[:] = clip.frames_THWC
    frames_BTHWC[len(clips) :] = 0
