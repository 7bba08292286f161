"""What the layers of a stream keep from one chunk to the next."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Memory"]


class Memory:
    """The last frames that each layer of one network saw, in one stream.

    A layer that looks back in time puts them in front of the next chunk, where in a whole clip the frames before would
    stand. A network that is given none treats what it gets as a whole clip.

    Attributes:
        kept: (B, T, H, W, C) by layer; none of a layer that has seen nothing yet.
        ahead: how many frames, at the end of what passes through the network, are a look-ahead: they come again with
            the next chunk, so that no layer keeps anything of them.
    """

    def __init__(self) -> None:
        self.kept: dict[nn.Module, Tensor] = {}
        self.ahead = 0

    def keep(self, layer: nn.Module, frames_BTHWC: Tensor, count: int) -> None:
        """Keeps the last `count` frames before the look-ahead, for `layer`."""
        end = frames_BTHWC.shape[1] - self.ahead
        # A copy: a view would hold on to all the frames of the chunk.
        self.kept[layer] = frames_BTHWC[:, end - count : end].clone()
