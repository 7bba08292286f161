"""A small GPT on the demonstration's tokens, which then goes on from a clip's first latent frame.

    make demo && python -m jobs.examples.gpt build/demo      # a few minutes on two cores; build/demo/gpt.mp4

The tokens' codebook has 2^30 entries, so it is read factorised: ten digits a token, 104 ids in all. The transformer
sees a token at a time (the sum of its digits' embeddings); the digits of the next one are predicted in turns, each from
the transformer's state and the digits before it.

Legend of shapes: B clips, N tokens of a clip, K digits of a token, D features.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.examples.clips import write_clip
from jobs.examples.fitting import fit
from jobs.examples.transformer import Cache, Transformer
from pipeline import TokenDataset, TokenLoader, TokenStream

__all__ = ["Result", "TokenGPT", "main", "train"]

_WIDTH, _LAYERS, _HEADS = 192, 4, 6


@dataclass(frozen=True)
class Result:
    """What came of a training.

    Attributes:
        losses: nats a digit, of each step.
        tokens_THW: the clip that was generated.
        original_THW: that whose first latent frame it began with.
    """

    losses: list[float]
    tokens_THW: Tensor
    original_THW: Tensor


class TokenGPT(nn.Module):
    """Predicts a clip's tokens one after the other, each digit by digit."""

    def __init__(self, *, levels: Sequence[int], num_tokens: int) -> None:
        super().__init__()
        self.begins = [0, *itertools.accumulate(levels)]  # the first id of each digit
        self.digits = nn.Embedding(sum(levels), _WIDTH)
        self.places = nn.Parameter(torch.randn(num_tokens, _WIDTH) * 0.02)
        self.begin = nn.Parameter(torch.randn(_WIDTH) * 0.02)
        self.transformer = Transformer(width=_WIDTH, layers=_LAYERS, heads=_HEADS, is_causal=True)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, level)) for level in levels
        )
        nn.init.normal_(self.digits.weight, std=0.02)

    def loss(self, ids_BNK: Tensor) -> Tensor:
        """Mean cross-entropy of a digit, in nats."""
        embedded_BNKD = self.digits(ids_BNK)
        before_BND = torch.cat([self.begin.expand(len(ids_BNK), 1, -1), embedded_BNKD.sum(dim=2)[:, :-1]], dim=1)
        state_BND = self.transformer(before_BND + self.places)
        known_BNKD = embedded_BNKD.cumsum(dim=2) - embedded_BNKD  # the digits before each
        losses = [
            F.cross_entropy(
                head(state_BND + known_BNKD[:, :, digit]).flatten(0, 1), ids_BNK[:, :, digit].flatten() - begin
            )
            for digit, (head, begin) in enumerate(zip(self.heads, self.begins, strict=False))
        ]
        return torch.stack(losses).mean()

    @torch.inference_mode()
    def generate(self, ids_NK: Tensor) -> Tensor:
        """A whole clip (N, K) that begins with some tokens, the likeliest digits after them."""
        found = list(ids_NK)
        cache: Cache = []
        before_ND = torch.cat([self.begin[None], self.digits(ids_NK).sum(dim=1)]) + self.places[: len(ids_NK) + 1]
        state_D = self.transformer(before_ND[None], cache)[0, -1]
        while True:
            known_D = torch.zeros(_WIDTH)
            token = []
            for head, begin in zip(self.heads, self.begins, strict=False):
                token.append(head(state_D + known_D).argmax() + begin)
                known_D = known_D + self.digits(token[-1])
            found.append(torch.stack(token))
            if len(found) == len(self.places):
                return torch.stack(found)
            state_D = self.transformer((known_D + self.places[len(found)])[None, None], cache)[0, -1]


def train(dataset: Path, *, steps: int, seed: int = 0) -> Result:
    """Trains on all clips of a dataset of tokens of one shape; goes on from the first latent frame of one of them."""
    torch.manual_seed(seed)
    clip = TokenDataset(dataset, shuffle=False)[0]["tokens"]
    # One clip a sequence: what begins and ends it, and its digits between.
    length = TokenStream(dataset, context=1, digits=True, frame_ends=False).vocabulary.num_ids(clip.shape)
    stream = TokenStream(
        dataset, context=length, digits=True, frame_ends=False, packing="within", batch_size=1, seed=seed
    )
    vocabulary = stream.vocabulary
    num_digits = vocabulary.ids_per_token
    model = TokenGPT(levels=vocabulary.levels, num_tokens=clip.numel())
    batches = (batch["tokens"][:, 1:-1].reshape(1, -1, num_digits) for batch in TokenLoader(stream))
    losses = fit(model, map(model.loss, batches), steps=steps, unit="nats a digit")
    ids, _ = vocabulary.encode(clip)
    given = ids[1:-1].reshape(-1, num_digits)[: clip[0].numel()]
    made = vocabulary.decode(model.generate(given).flatten(), clip.shape)
    return Result(losses, made, clip)


def main() -> None:
    """Trains, generates and writes the clip."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the demonstration's, as `make demo` leaves it")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    result = train(options.folder / "dataset", steps=options.steps)
    target = options.folder / "gpt.mp4"
    count = write_clip(options.folder / "dataset", result.tokens_THW, target)
    same = (result.tokens_THW == result.original_THW).float().mean()
    sys.stdout.write(f"{count} frames in {target}; {same:.0%} of its tokens are those of the clip it began with\n")


if __name__ == "__main__":
    main()
