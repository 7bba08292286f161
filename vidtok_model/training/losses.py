"""The terms of the published training loss, each by itself (spec: arXiv 2412.13061 and its repository).

Shape suffixes: B batch, C channels, T frames, H height, W width; N is B*T, and P all positions of all latents.
"""

from __future__ import annotations

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidtok_model.regularizers import FiniteScalarQuantizer

__all__ = [
    "LeCamAverages",
    "adaptive_weight",
    "fsq_loss",
    "generator_loss",
    "hinge_loss",
    "is_distributed",
    "kl_loss",
    "reconstruction_loss",
]

_COMMITMENT = 0.25
_INVERSE_TEMPERATURE = 100.0
_ENTROPY_WEIGHTS = (0.3, 0.1)  # at iteration 0, and from iteration _ANNEALED on
_ANNEALED = 2_000
_PROBABILITY_FLOOR = 1e-5  # inside a logarithm
# Of positions by codes, at a time: what bounds the memory of the entropy.
_CHUNK_ELEMENTS = 2**26
_MOST_ADAPTIVE_WEIGHT = 1e4


def is_distributed() -> bool:
    """Whether there are other ranks."""
    is_set_up = torch.distributed.is_available() and torch.distributed.is_initialized()
    return is_set_up and torch.distributed.get_world_size() > 1


def reconstruction_loss(
    given_NCHW: Tensor, decoded_NCHW: Tensor, perceptual_N: Tensor | None, logvar: Tensor
) -> Tensor:
    """The negative log-likelihood of frames under a Laplacian of learned width, summed over a frame's values.

    rec = |x - x^| + LPIPS, a frame's LPIPS added to each of its values; rec / exp(logvar) + logvar, summed over C, H
    and W, and averaged over the frames.

    Args:
        given_NCHW: Frames in [-1, 1].
        decoded_NCHW: What the decoder made of them.
        perceptual_N: LPIPS of each frame, or None.
        logvar: A scalar, learned.
    """
    error_NCHW = (given_NCHW - decoded_NCHW).abs()
    if perceptual_N is not None:
        error_NCHW = error_NCHW + perceptual_N[:, None, None, None]
    return (error_NCHW / logvar.exp() + logvar).sum() / given_NCHW.shape[0]


def kl_loss(mean_BCTHW: Tensor, logvar_BCTHW: Tensor) -> Tensor:
    """KL divergence from the standard normal distribution, summed over a clip's latents, averaged over clips."""
    return 0.5 * (mean_BCTHW.square() + logvar_BCTHW.exp() - 1 - logvar_BCTHW).sum() / mean_BCTHW.shape[0]


def fsq_loss(z_BTHWC: Tensor, codes_BCTHW: Tensor, quantizer: FiniteScalarQuantizer, iteration: int) -> Tensor:
    """What keeps FSQ's codebook in use: commitment, and an entropy term that is annealed. In float32, always.

    0.25 * mean((z - code)^2) + w * (E[H(p)] - H(E[p])), where p is the softmax over the codebook of 2 * 100 * (z . c),
    entropies are in nats with p at least 1e-5 inside the logarithm, and E runs over all positions of all ranks. w falls
    from 0.3 to 0.1 over the first 2,000 iterations.

    Args:
        z_BTHWC: The encoder's output, before the quantizer bounds it.
        codes_BCTHW: What the quantizer made of it.
        quantizer: The model's.
        iteration: Iterations done before this one.
    """
    # Autocast would give the scores, 200 times a product, the steps of bfloat16: half of 1, in an exponent.
    with torch.autocast(z_BTHWC.device.type, enabled=False):
        return _fsq_loss(z_BTHWC.float(), codes_BCTHW, quantizer, iteration)


def _fsq_loss(z_BTHWC: Tensor, codes_BCTHW: Tensor, quantizer: FiniteScalarQuantizer, iteration: int) -> Tensor:
    z_PC = z_BTHWC.flatten(0, 3)
    codes_PC = codes_BCTHW.detach().permute(0, 2, 3, 4, 1).flatten(0, 3)
    commitment = (z_PC - codes_PC).square().mean()
    sample_entropy, mean_K = _entropy_and_mean(z_PC, _codebook(quantizer))
    if is_distributed():
        summed_K = torch.distributed.nn.functional.all_reduce(mean_K)  # type: ignore[no-untyped-call]
        mean_K = summed_K / torch.distributed.get_world_size()
    first, last = _ENTROPY_WEIGHTS
    weight = first + (last - first) * min(iteration / _ANNEALED, 1.0)
    return _COMMITMENT * commitment + weight * (sample_entropy - _entropy(mean_K))


def _codebook(quantizer: FiniteScalarQuantizer) -> Tensor:
    """All codes, (K, C)."""
    size = int(quantizer.levels.prod())
    tokens_BTHW = torch.arange(size, device=quantizer.levels.device).reshape(1, 1, 1, size)
    return quantizer.codes(tokens_BTHW)[0, :, 0, 0].T


def _entropy_and_mean(z_PC: Tensor, codebook_KC: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the entropies of all positions' p, and the mean of p, (K,)."""
    rows = max(1, _CHUNK_ELEMENTS // len(codebook_KC))
    entropy = z_PC.new_zeros(())
    sum_K = z_PC.new_zeros(len(codebook_KC))
    for some_PC in torch.split(z_PC, rows):
        # Computed again on the way back: p of all positions and codes is what would fill the memory.
        of_some, p_of_some_K = checkpoint(_summed, some_PC, codebook_KC, use_reentrant=False)
        entropy, sum_K = entropy + of_some, sum_K + p_of_some_K
    return entropy / len(z_PC), sum_K / len(z_PC)


def _summed(z_PC: Tensor, codebook_KC: Tensor) -> tuple[Tensor, Tensor]:
    p_PK = (2 * _INVERSE_TEMPERATURE * z_PC @ codebook_KC.T).softmax(dim=-1)
    return _entropy(p_PK), p_PK.sum(dim=0)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=_PROBABILITY_FLOOR).log()).sum()


def hinge_loss(real_logits: Tensor, decoded_logits: Tensor) -> Tensor:
    """The discriminator's: 0.5 * (mean relu(1 - real) + mean relu(1 + decoded))."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + decoded_logits).mean())


def generator_loss(decoded_logits_N1HW: Tensor) -> Tensor:
    """The decoder's adversarial term: the mean over frames of softplus(-m), m a frame's mean logit."""
    return F.softplus(-decoded_logits_N1HW.flatten(1).mean(dim=1)).mean()


class LeCamAverages(nn.Module):
    """LeCam regularisation (arXiv 2104.03310): logits are held near running means of those of the other side.

    Args:
        decay: Of the means, which begin at 0.
    """

    real: Tensor
    decoded: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("decoded", torch.zeros(()))

    def forward(self, real_logits: Tensor, decoded_logits: Tensor) -> Tensor:
        """Takes logits into the means; gives mean relu(real - decoded mean)^2 plus mean relu(real mean - decoded)^2."""
        for average, logits in ((self.real, real_logits), (self.decoded, decoded_logits)):
            average.lerp_(logits.detach().float().mean(), 1 - self.decay)
        above = F.relu(real_logits - self.decoded).square().mean()
        below = F.relu(self.real - decoded_logits).square().mean()
        return above + below


def adaptive_weight(nll: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """How much the adversarial term must count to pull at the decoder's last weight as hard as the other term does.

    |grad nll| / (|grad adversarial| + 1e-4), between 0 and 1e4 (arXiv 2012.09841).
    """
    of_nll, of_adversarial = (
        torch.linalg.vector_norm(torch.autograd.grad(term, last_weight, retain_graph=True)[0])
        for term in (nll, adversarial)
    )
    weight: Tensor = (of_nll / (of_adversarial + 1e-4)).clamp(0.0, _MOST_ADAPTIVE_WEIGHT).detach()
    return weight
