"""Videos of any length in bounded memory, with models of version 1.1: a video goes through in chunks.

Each layer keeps the few frames that it looks back at (memory.py), so that chunks give what the whole would.

Shape suffixes: B batch, C channels, T frames, H height, W width. Clips and latents come and go as (B, C, T, H, W); what
waits is kept as (B, T, H, W, C).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vidtok_model.checks import check_clips, check_decoder, check_latents, check_sample
from vidtok_model.layers import TimePad
from vidtok_model.memory import Memory
from vidtok_model.regularizers import Encoded, regularize
from vidtok_model.resampling import TemporalUp

if TYPE_CHECKING:
    from vidtok_model.tokenizer import VideoTokenizer

__all__ = ["StreamDecoder", "StreamEncoder"]

_LAYER = "layers."


class _Stream:
    """What came and can't be used yet, what the layers keep, and both as tensors by name."""

    def __init__(self, tokenizer: VideoTokenizer, network: nn.Module, what: str) -> None:
        if tokenizer.config.version != "1.1":
            raise ValueError(
                f"{tokenizer.config.name} takes clips, not streams: what its layers put in front of a clip suits the "
                "clip's beginning only; models of version 1.1 (..._v1_1) take streams"
            )
        self.memory = Memory()
        self.waiting_BTHWC: Tensor | None = None
        self._config = tokenizer.config
        self._dtype = tokenizer.dtype
        self._network = network
        self._what = what
        self._shape: tuple[int, ...] | None = None
        self._is_finished = False

    @property
    def has_begun(self) -> bool:
        """Whether anything went through the network."""
        return bool(self.memory.kept)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Where the block fails, as for want of memory, the stream stands as it stood before it."""
        before = dict(self.memory.kept), self.waiting_BTHWC, self._shape, self._is_finished
        try:
            yield
        except BaseException:
            self.memory.kept, self.waiting_BTHWC, self._shape, self._is_finished = before
            raise

    def take(self, x_BCTHW: Tensor) -> Tensor:
        """What waited, and behind it what comes now; nothing waits then."""
        if self._is_finished:
            raise ValueError(f"{self._what} for a stream that is finished: open another one")
        shape = (x_BCTHW.shape[0], *x_BCTHW.shape[3:])
        if self._shape not in (None, shape):
            raise ValueError(
                f"{self._what} of shape {tuple(x_BCTHW.shape)}: the stream was begun with (B, H, W) = {self._shape}"
            )
        self._shape = shape
        x_BTHWC = x_BCTHW.to(self._dtype).permute(0, 2, 3, 4, 1)
        if self.waiting_BTHWC is not None:
            x_BTHWC = torch.cat([self.waiting_BTHWC, x_BTHWC], dim=1)
        self.waiting_BTHWC = None
        return x_BTHWC.contiguous()

    def end(self) -> Tensor | None:
        """What waited; nothing more is taken."""
        self._is_finished = True
        waiting_BTHWC, self.waiting_BTHWC = self.waiting_BTHWC, None
        return waiting_BTHWC

    def state_dict(self) -> dict[str, Tensor]:
        state = {_LAYER + name: self.memory.kept[layer] for name, layer in self._layers() if layer in self.memory.kept}
        if self.waiting_BTHWC is not None:
            state["waiting"] = self.waiting_BTHWC
        state["shape"] = torch.tensor(self._shape or (), dtype=torch.int64)
        state["is_finished"] = torch.tensor(self._is_finished)
        state["of"] = self._signature()
        return {name: value.clone() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "of" not in state or not torch.equal(state["of"].cpu(), self._signature()):
            raise ValueError(f"a state of another kind of stream or of another model than {self._config.name}")
        layers = {_LAYER + name: layer for name, layer in self._layers()}
        known = {*layers, "waiting", "shape", "is_finished", "of"}
        kept = layers.keys() & state.keys()
        lacking = {"shape", "is_finished"} - state.keys() | (layers.keys() - kept if kept else set())
        if lacking or state.keys() - known:
            lacks, has = sorted(lacking)[:5], sorted(state.keys() - known)[:5]
            raise ValueError(f"no whole state of a stream: it lacks {lacks}, and has {has} besides")
        device = next(self._network.parameters()).device
        floats = {name: state[name].to(device, self._dtype, copy=True) for name in {*kept, "waiting"} & state.keys()}
        self.memory = Memory()
        self.memory.kept = {layers[name]: floats[name] for name in kept}
        self.waiting_BTHWC = floats.get("waiting")
        self._shape = tuple(state["shape"].tolist()) or None
        self._is_finished = bool(state["is_finished"])

    def _layers(self) -> list[tuple[str, nn.Module]]:
        """Those that keep frames, by name."""
        return [
            (name, layer) for name, layer in self._network.named_modules() if isinstance(layer, TimePad | TemporalUp)
        ]

    def _signature(self) -> Tensor:
        """What a state is of, as bytes: the model, and which half of it."""
        of = json.dumps([self._what, self._config.to_dict()]).encode()
        return torch.frombuffer(bytearray(of), dtype=torch.uint8)


class StreamEncoder:
    """Encodes one video (or B of one length, side by side) in chunks; `VideoTokenizer.stream_encoder` makes it.

    All that comes out, joined (`Encoded.join`), is what `VideoTokenizer.encode` gives of the whole video, however it
    was cut. That is one latent for the first frame and one for every further f frames; a video that ends elsewhere is
    encoded as if its last frame were repeated until there.

    Several may be open on one model, each with a state of its own. No gradients flow.
    """

    def __init__(
        self, tokenizer: VideoTokenizer, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> None:
        """Begins a stream; see `VideoTokenizer.stream_encoder`."""
        check_sample(tokenizer.config, sample)
        self._tokenizer = tokenizer
        self._stream = _Stream(tokenizer, tokenizer.encoder, "frames")
        self._sample = sample
        self._generator = generator

    @torch.no_grad()
    def push(self, frames_BCTHW: Tensor) -> Encoded | None:
        """Takes the next frames.

        Args:
            frames_BCTHW: (B, 3, T, H, W), any float dtype, in [-1, 1], any T from 1. They are encoded at once, so T is
                what bounds the memory that this takes.

        Returns:
            What became final, None where nothing did.

        Raises:
            ValueError: If the frames have another shape or dtype than a clip's, another B, H or W than those before,
                or the stream is finished. After that, or any other error, the stream stands as before.
        """
        check_clips(self._tokenizer.config, frames_BCTHW)
        with self._stream.unharmed():
            x_BTHWC = self._stream.take(frames_BCTHW)
            factor = self._tokenizer.config.time_factor
            rest = (x_BTHWC.shape[1] - (0 if self._stream.has_begun else 1)) % factor
            if rest:
                self._stream.waiting_BTHWC = x_BTHWC[:, -rest:].clone()
                x_BTHWC = x_BTHWC[:, :-rest]
            return self._encode(x_BTHWC) if x_BTHWC.shape[1] else None

    @torch.no_grad()
    def finish(self) -> Encoded | None:
        """Ends the stream, its last frame repeated as needed; gives what is left, None where nothing is."""
        with self._stream.unharmed():
            x_BTHWC = self._stream.end()
            if x_BTHWC is None:
                return None
            missing = self._tokenizer.config.time_factor - x_BTHWC.shape[1]
            return self._encode(torch.cat([x_BTHWC, x_BTHWC[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1))

    def state_dict(self) -> dict[str, Tensor]:
        """Where the stream stands, as tensors by name: what layers keep, and frames that wait for others."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from such a state, of a stream of the same model; ValueError where it is none."""
        self._stream.load_state_dict(state)

    def _encode(self, x_BTHWC: Tensor) -> Encoded:
        if not self._stream.has_begun:
            # The first frame, and in front of it as many copies as make it f frames, as in a whole clip.
            front = self._tokenizer.config.time_factor - 1
            x_BTHWC = torch.cat([x_BTHWC[:, :1].expand(-1, front, -1, -1, -1), x_BTHWC], dim=1)
        z_BTHWC = self._tokenizer.encoder(x_BTHWC.contiguous(), self._stream.memory)
        return regularize(self._tokenizer.regularizer, z_BTHWC, sample=self._sample, generator=self._generator)


class StreamDecoder:
    """Decodes one video (or B of one length) in chunks; `VideoTokenizer.stream_decoder` makes it.

    What comes out is the published long-video decoding, however the latents were cut: one frame for the first latent,
    f for each further one. A latent's frames come when the next latent is there, since they depend on it. Decoding a
    whole clip at once differs by up to 0.015 with time factors of 4 and 8 (published behaviour, see resampling.py).
    """

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        """Begins a stream; see `VideoTokenizer.stream_decoder`."""
        check_decoder(tokenizer)
        self._tokenizer = tokenizer
        self._stream = _Stream(tokenizer, tokenizer.decoder, "latents")

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor | None:
        """Takes the next latents or tokens.

        Args:
            latents: (B, z, T', H', W'), any float dtype; or the tokens of an FSQ model, (B, T', H', W') integers. They
                are decoded at once, so T' is what bounds the memory that this takes.

        Returns:
            The frames that became final, (B, 3, T, H, W) about in [-1, 1] (not clamped), None where none did.

        Raises:
            ValueError: If they have another shape or dtype, other B, H', W' than those before, or the stream is
                finished. After that, or any other error, the stream stands as before.
        """
        if not latents.is_floating_point():
            latents = self._tokenizer.tokens_to_latents(latents)
        check_latents(self._tokenizer.config, latents)
        with self._stream.unharmed():
            x_BTHWC = self._stream.take(latents)
            self._stream.waiting_BTHWC = x_BTHWC[:, -1:].clone()  # the look-ahead of those before, and itself not final
            pieces = []
            if not self._stream.has_begun and x_BTHWC.shape[1] > 1:
                # The first latent is a chunk by itself, whatever came with it: what layers keep after it is special.
                pieces.append(self._decode(x_BTHWC[:, :2], ahead=1))
                x_BTHWC = x_BTHWC[:, 1:]
            if x_BTHWC.shape[1] > 1:
                pieces.append(self._decode(x_BTHWC, ahead=1))
        return torch.cat(pieces, dim=2) if pieces else None

    @torch.no_grad()
    def finish(self) -> Tensor | None:
        """Ends the stream; gives the last latent's frames, None where no latent came."""
        with self._stream.unharmed():
            x_BTHWC = self._stream.end()
            return None if x_BTHWC is None else self._decode(x_BTHWC, ahead=0)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the stream stands, as tensors by name: what layers keep, and the latent that waits for the next."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from such a state, of a stream of the same model; ValueError where it is none."""
        self._stream.load_state_dict(state)

    def _decode(self, x_BTHWC: Tensor, *, ahead: int) -> Tensor:
        factor = self._tokenizer.config.time_factor
        is_first = not self._stream.has_begun
        self._stream.memory.ahead = ahead
        y_BTHWC: Tensor = self._tokenizer.decoder(x_BTHWC.contiguous(), self._stream.memory)
        # The first latent's f frames stand for one frame and the copies in front of it.
        kept_BTHWC = y_BTHWC[:, factor - 1 if is_first else 0 : y_BTHWC.shape[1] - ahead * factor]
        return kept_BTHWC.permute(0, 4, 1, 2, 3).contiguous()
