"""How many clips a GPU encodes at once: as many as its memory holds, found out by encoding one and two."""

from collections.abc import Callable

import torch

from vidtok_model import VideoTokenizer

__all__ = ["fitting_batch_size", "measured_batch_size"]

_MOST = 64  # by far more than keep a GPU busy
# What is left free: kernels' workspaces, and a memory in pieces.
_SHARE = 0.85


def fitting_batch_size(peak_bytes: Callable[[int], int], free_bytes: int) -> int:
    """The largest power of two, up to 64, for which memory is there; 1 where it is not (to encode then says so).

    Args:
        peak_bytes: what a batch of so many clips takes at its peak; called for 1 and 2.
        free_bytes: what there is.
    """
    try:
        one = peak_bytes(1)
        each = peak_bytes(2) - one
    except torch.OutOfMemoryError:
        return 1
    size = 1
    while 2 * size <= _MOST and one + (2 * size - 1) * each <= _SHARE * free_bytes:
        size *= 2
    return size


def measured_batch_size(tokenizer: VideoTokenizer, clip_shape: tuple[int, int, int, int], *, share: float) -> int:
    """The batch size for an NVIDIA GPU that a tokenizer is on.

    Args:
        tokenizer: on the GPU.
        clip_shape: of clips as the model takes them, (3, T, H, W).
        share: of the GPU, in (0, 1], that this process may take.
    """
    device = next(tokenizer.parameters()).device
    begun = torch.cuda.memory_allocated(device)

    def peak_bytes(batch_size: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        with torch.inference_mode():
            tokenizer.encode(torch.zeros(batch_size, *clip_shape, device=device))
        return torch.cuda.max_memory_allocated(device) - begun

    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return fitting_batch_size(peak_bytes, min(free_bytes, int(share * total_bytes) - begun))
