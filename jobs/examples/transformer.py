"""A plain pre-norm transformer, which both examples use.

Legend of shapes: B rows of a batch, N places of a sequence, D features of a place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Transformer"]

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer so far, (B, heads, N, D / heads)


class Transformer(nn.Module):
    """Layers of attention and a perceptron, each added to what it looks at."""

    def __init__(self, *, width: int, layers: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, is_causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            x_BND: places; with a cache those that follow what it holds, of which there may be one alone.
            cache: takes keys and values in, so that a place is computed once.
        """
        for number, layer in enumerate(self.layers):
            x_BND = layer(x_BND, cache, number)
        normed: Tensor = self.norm(x_BND)
        return normed


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BND: Tensor, cache: Cache | None, number: int) -> Tensor:
        x_BND = x_BND + self._attention(self.norms[0](x_BND), cache, number)
        changed: Tensor = x_BND + self.perceptron(self.norms[1](x_BND))
        return changed

    def _attention(self, x_BND: Tensor, cache: Cache | None, number: int) -> Tensor:
        parts = self.queries_keys_values(x_BND).chunk(3, dim=-1)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        is_first = cache is None or number >= len(cache)
        if cache is not None:
            if is_first:
                cache.append((keys, values))
            else:
                keys, values = (
                    torch.cat([old, new], 2) for old, new in zip(cache[number], (keys, values), strict=True)
                )
                cache[number] = keys, values
        # What is cached lies before the one place that follows, which may look at all of it.
        found = F.scaled_dot_product_attention(queries, keys, values, is_causal=self.is_causal and is_first)
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined
