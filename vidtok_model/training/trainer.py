"""One model in training: an iteration, and all that has to be saved to go on exactly where it stood.

Shape suffixes: B batch, C channels, T frames, H height, W width; N is B*T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidtok_model.metrics import Lpips
from vidtok_model.regularizers import Encoded, FiniteScalarQuantizer
from vidtok_model.tokenizer import VideoTokenizer
from vidtok_model.training.discriminator import PatchDiscriminator
from vidtok_model.training.losses import (
    LeCamAverages,
    adaptive_weight,
    fsq_loss,
    generator_loss,
    hinge_loss,
    is_distributed,
    kl_loss,
    reconstruction_loss,
)
from vidtok_model.training.optimizers import make_optimizers
from vidtok_model.training.options import AdversarialOptions, TrainingOptions

__all__ = ["Trainer"]

_MOST_UNUSABLE = 20


@dataclass(frozen=True, kw_only=True)
class _Reconstructed:
    """What the autoencoder gives of a batch.

    Attributes:
        loss: all but the adversarial term.
        nll: the reconstruction loss, of which the adaptive weight takes the gradient.
        frames_NCHW: decoded frames.
        terms: figures to log.
    """

    loss: Tensor
    nll: Tensor
    frames_NCHW: Tensor
    terms: dict[str, Tensor]


class _Autoencoder(nn.Module):
    """The tokenizer with its loss, as one module whose gradients are averaged over ranks."""

    def __init__(self, tokenizer: VideoTokenizer, options: TrainingOptions, lpips: Lpips | None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.logvar = nn.Parameter(torch.zeros(()))
        self._options = options
        self._lpips = [lpips]  # in a list, so that its frozen weights are none of this module's

    def forward(self, clips_BCTHW: Tensor, noise: Tensor | None, step: int) -> _Reconstructed:
        tokenizer, options = self.tokenizer, self._options
        encodes = options.trains == "all"
        with torch.set_grad_enabled(encodes):
            z_BTHWC = tokenizer.encoder(tokenizer.encoder_input(clips_BCTHW))
            encoded: Encoded = tokenizer.regularizer(z_BTHWC)
        latents_BCTHW, regularization = encoded.latents, z_BTHWC.new_zeros(())
        if isinstance(tokenizer.regularizer, FiniteScalarQuantizer):
            if encodes and options.fsq_weight:  # it is costly where the codebook is large
                quantizer = tokenizer.regularizer
                regularization = options.fsq_weight * fsq_loss(z_BTHWC, latents_BCTHW, quantizer, step)
        else:
            assert encoded.mean is not None and encoded.logvar is not None and noise is not None, "a KL model"
            latents_BCTHW = encoded.mean + (0.5 * encoded.logvar).exp() * noise
            if encodes:
                regularization = options.kl_weight * kl_loss(encoded.mean, encoded.logvar)
        decoded_BCTHW = tokenizer.decode(latents_BCTHW, clips_BCTHW.shape[2]).float()
        given_NCHW, decoded_NCHW = _frames(clips_BCTHW.float()), _frames(decoded_BCTHW)
        (lpips,) = self._lpips
        perceptual_N = None
        if lpips is not None and options.perceptual_weight:
            perceptual_N = options.perceptual_weight * lpips(clips_BCTHW.float(), decoded_BCTHW).flatten()
        nll = reconstruction_loss(given_NCHW, decoded_NCHW, perceptual_N, self.logvar)
        terms = {"l1": (given_NCHW - decoded_NCHW).abs().mean(), "nll": nll, "regularization": regularization}
        terms["logvar"] = self.logvar
        if perceptual_N is not None:
            terms["lpips"] = perceptual_N.mean() / options.perceptual_weight
        return _Reconstructed(loss=nll + regularization, nll=nll, frames_NCHW=decoded_NCHW, terms=terms)


class _Judgement(nn.Module):
    """The discriminator with its loss."""

    def __init__(self, options: AdversarialOptions) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator()
        self.lecam = LeCamAverages(options.lecam_decay)
        self._options = options

    def forward(self, given_NCHW: Tensor, decoded_NCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        real, decoded = self.discriminator(given_NCHW).float(), self.discriminator(decoded_NCHW).float()
        lecam = self.lecam(real, decoded)
        loss = hinge_loss(real, decoded) + self._options.lecam_weight * lecam
        return loss, {"logits_real": real.mean(), "logits_decoded": decoded.mean(), "lecam": lecam}


class Trainer:
    """A stage of training, iteration by iteration.

    What an iteration does follows from the state, the batch and its number alone, so whoever saves the state may go on
    from it on another machine, or on another number of ranks.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        options: TrainingOptions,
        *,
        lpips: Lpips | None = None,
        seed: int = 0,
    ) -> None:
        """Takes over a model, whose weights it trains.

        Args:
            tokenizer: On its device already; the same weights on each rank.
            options: The stage.
            lpips: On the same device; None: that term is left out.
            seed: Of a new discriminator, and of the noise of KL models.
        """
        self.tokenizer = tokenizer
        self.options = options
        self.device = next(tokenizer.parameters()).device
        self._seed = seed
        tokenizer.train().requires_grad_(True)
        tokenizer.encoder.requires_grad_(options.trains == "all")
        for network in (tokenizer.encoder, tokenizer.decoder):
            network.checkpoints_activations = options.checkpoint_activations
        self._autoencoder = _Autoencoder(tokenizer, options, lpips).to(self.device)
        self._trained = [parameter for parameter in self._autoencoder.parameters() if parameter.requires_grad]
        self._optimizers = make_optimizers(self._trained, options)
        averaging = get_ema_multi_avg_fn(options.ema_decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(tokenizer, multi_avg_fn=averaging)
        self._judgement: _Judgement | None = None
        if options.adversarial is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                self._judgement = _Judgement(options.adversarial).to(self.device)
            judged = self._judgement.discriminator.parameters()
            self._judging_optimizer = torch.optim.Adam(judged, lr=options.adversarial.learning_rate)
        self._unusable = 0
        self._wrapped: dict[str, nn.Module] = {
            "autoencoder": _distributed(self._autoencoder),
            **({} if self._judgement is None else {"judgement": _distributed(self._judgement)}),
        }

    @property
    def average(self) -> VideoTokenizer:
        """The running mean of the weights, in evaluation mode: what a stage is for."""
        module = self._average.module
        assert isinstance(module, VideoTokenizer)
        return module.eval()

    def iterate(self, clips_BCTHW: Tensor, samples: Sequence[int], step: int) -> dict[str, float]:
        """One iteration.

        Args:
            clips_BCTHW: This rank's clips, (B, 3, T, H, W) in [-1, 1], on its device.
            samples: Their numbers in the order of the whole training, from which the noise follows.
            step: Iterations done before this one.

        Returns:
            This rank's figures by name.

        Raises:
            FloatingPointError: The gradients were not finite for many iterations. None of them has changed a weight.
        """
        options = self.options
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = options.learning_rate * options.learning_rate_factor(step)
        noise = self._noise(clips_BCTHW, samples)
        with self._autocast():
            made: _Reconstructed = self._wrapped["autoencoder"](clips_BCTHW, noise, step)
            loss, terms = made.loss, made.terms
            if self._judgement is not None and step >= self._adversarial.start:
                adversarial = self._adversarial_term(made)
                loss, terms = loss + adversarial, {**terms, "adversarial": adversarial}
        self._autoencoder.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        terms["gradient_norm"] = nn.utils.clip_grad_norm_(self._trained, options.clip_norm)
        if self._is_usable(terms["gradient_norm"], step):
            for optimizer in self._optimizers:
                optimizer.step()
            self._average.update_parameters(self.tokenizer)
        if self._judgement is not None:
            terms |= self._judge(_frames(clips_BCTHW), made.frames_NCHW.detach(), step)
        return {name: float(value.detach()) for name, value in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that an iteration depends on, but for its batch and number."""
        state = {
            "autoencoder": self._autoencoder.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "average": self._average.state_dict(),
        }
        if self._judgement is not None:
            state |= {
                "judgement": self._judgement.state_dict(),
                "judging_optimizer": self._judging_optimizer.state_dict(),
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from such a state, of a stage of the same model and options."""
        self._autoencoder.load_state_dict(state["autoencoder"])
        for optimizer, of_optimizer in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        self._average.load_state_dict(state["average"])
        if self._judgement is not None:
            self._judgement.load_state_dict(state["judgement"])
            self._judging_optimizer.load_state_dict(state["judging_optimizer"])

    @property
    def _adversarial(self) -> AdversarialOptions:
        assert self.options.adversarial is not None
        return self.options.adversarial

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16")

    def _is_usable(self, gradient_norm: Tensor, step: int) -> bool:
        """Whether the gradients are finite; if not, the iteration changes no weights, on any rank."""
        self._unusable = 0 if gradient_norm.isfinite() else self._unusable + 1
        if self._unusable == _MOST_UNUSABLE:
            raise FloatingPointError(
                f"iteration {step + 1}: the gradients were not finite {_MOST_UNUSABLE} times in a row"
            )
        return not self._unusable

    def _noise(self, clips_BCTHW: Tensor, samples: Sequence[int]) -> Tensor | None:
        """Standard normal noise for each clip's latents, by its number: whichever rank has it."""
        config = self.tokenizer.config
        if config.is_discrete:
            return None
        shape = config.latent_shape(*clips_BCTHW.shape[2:])
        drawn = [
            torch.randn(shape, generator=torch.Generator().manual_seed((self._seed << 40) + number))
            for number in samples
        ]
        return torch.stack(drawn).to(self.device)

    def _adversarial_term(self, made: _Reconstructed) -> Tensor:
        assert self._judgement is not None
        discriminator = self._judgement.discriminator.requires_grad_(False)
        adversarial = generator_loss(discriminator(made.frames_NCHW).float())
        discriminator.requires_grad_(True)
        last_weight = dict(self.tokenizer.decoder.conv_out.named_parameters())
        (name,) = (name for name in last_weight if name.endswith("weight"))
        weight = adaptive_weight(made.nll, adversarial, last_weight[name])
        return self._adversarial.weight * weight * adversarial

    def _judge(self, given_NCHW: Tensor, decoded_NCHW: Tensor, step: int) -> dict[str, Tensor]:
        is_learning = step >= self._adversarial.start
        with self._autocast(), torch.set_grad_enabled(is_learning):
            loss, terms = self._wrapped["judgement"](given_NCHW, decoded_NCHW)
        if is_learning:
            self._judging_optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            judged = [parameter for group in self._judging_optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(judged, self.options.clip_norm)
            self._judging_optimizer.step()
        return {**terms, "discriminator": loss}


def _frames(clips_BCTHW: Tensor) -> Tensor:
    """Clips as single frames (N, C, H, W)."""
    return clips_BCTHW.transpose(1, 2).flatten(0, 1)


def _distributed(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over ranks, where there are several."""
    if not is_distributed():
        return module
    # Each rank has BatchNorm's statistics and LeCam's means of its own; the first one's are saved.
    return DistributedDataParallel(module, broadcast_buffers=False)
