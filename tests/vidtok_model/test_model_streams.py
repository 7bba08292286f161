"""Streams: chunks give what the whole gives, whatever the chunks, and whoever else streams."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.vidtok_model.support import GOLDEN, TINY, TOLERANCE, assert_close, golden_tokenizer, tiny_tokenizer
from vidtok_model import MODELS, Encoded, StreamDecoder, StreamEncoder, TokenizerConfig, VideoTokenizer
from vidtok_model.golden import golden_clip

STREAMED = [name for name, config in MODELS.items() if config.version == "1.1"]
LENGTH = 49


def tiny(regularizer: str, time_levels: tuple[int, ...]) -> TokenizerConfig:
    """A small model of version 1.1 that halves time so often."""
    levels = {"temporal_down_levels": time_levels, "temporal_up_levels": time_levels}
    fsq = {"fsq_levels": (8, 8, 8)} if regularizer == "fsq" else {}
    name = f"tiny_{regularizer}_{2 ** len(time_levels)}"
    fields = {**TINY, "channel_multipliers": (1, 2, 2), **levels, **fsq}
    return TokenizerConfig(name=name, latent_channels=3, version="1.1", **fields)


TINY_MODELS = [tiny(regularizer, levels) for regularizer in ("kl", "fsq") for levels in ((0,), (0, 1), (0, 1, 2))]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pushed(stream: StreamEncoder | StreamDecoder, pieces: list[torch.Tensor]) -> list:
    """All that a stream gives for the pieces and at its end."""
    given = [*map(stream.push, pieces), stream.finish()]
    return [out for out in given if out is not None]


def long_clip(name: str) -> torch.Tensor:
    side = 64 if "41616" in name else 32
    return golden_clip(name + (":long1" if "888" in name else ":long"), (1, 3, LENGTH, side, side))


@pytest.mark.parametrize("name", STREAMED)
def test_released_model_in_a_stream(name: str) -> None:
    """Frame 0, then 16 frames at a time, against the published code's numbers."""
    tokenizer, golden = golden_tokenizer(name), np.load(GOLDEN / "stream" / f"{name}.npz")
    frames = long_clip(name).split([1, 16, 16, 16], dim=2)
    encoded = Encoded.join(pushed(tokenizer.stream_encoder(), list(frames)))
    if tokenizer.config.is_discrete:
        assert np.array_equal(encoded.tokens.numpy(), golden["indices"])
        assert_close(encoded.latents, golden["latents"], "latents")
        given = encoded.tokens.int()
    else:
        assert_close(encoded.mean, golden["mean"], "mean")
        given = encoded.latents
    per_chunk = 16 // tokenizer.config.time_factor
    # 16 frames at a time, 32, all at once, and unevenly: the published result is the same, and so must ours be.
    axis = 1 if tokenizer.config.is_discrete else 2
    for sizes in ([1] + [per_chunk] * 3, [1, 2 * per_chunk, per_chunk], [3 * per_chunk + 1], [2, 3 * per_chunk - 1]):
        decoded = torch.cat(pushed(tokenizer.stream_decoder(), list(given.split(sizes, dim=axis))), dim=2)
        assert decoded.shape == (1, 3, LENGTH, *long_clip(name).shape[3:])
        assert_close(decoded[..., ::4, ::4], golden["reconstruction_chunk16"], f"reconstruction in chunks of {sizes}")


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    """Sizes of pieces that make up a length."""
    ends = sorted(draw(st.sets(st.integers(1, length - 1), max_size=6))) if length > 1 else []
    return [end - begin for begin, end in zip([0, *ends], [*ends, length], strict=True)]


def moved(stream: StreamEncoder | StreamDecoder, fresh: StreamEncoder | StreamDecoder):
    """A new stream that goes on where another stands, its state written to a file and read again."""
    fresh.load_state_dict(load(save(stream.state_dict())))
    return fresh


def assert_same(got: Encoded, whole: Encoded) -> None:
    """Equal to the golden tolerance; tokens where no value lies so close to a boundary that rounding decides."""
    for name in ("mean", "logvar"):
        if (value := getattr(whole, name)) is not None:
            assert_close(getattr(got, name), value.numpy(), name)
    if whole.tokens is not None:
        assert got.tokens.shape == whole.tokens.shape
        different = got.tokens != whole.tokens
        assert different.float().mean() <= 0.01, "more than what rounding decides"
        assert torch.equal(got.latents.ne(whole.latents).any(dim=1), different)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_chunks_of_two_streams_at_once_give_the_whole(data: st.DataObject) -> None:
    """Two videos of their own length and chunks on one model, in turns, one of them moved to another stream between."""
    tokenizer = tiny_tokenizer(data.draw(st.sampled_from(TINY_MODELS)))
    factor = tokenizer.config.time_factor
    clips, streams, waiting, outs = [], [], [], []
    for number in range(2):
        length = data.draw(st.integers(1, 4 * factor + 3))
        clips.append(golden_clip(f"stream {number}", (1 + number, 3, length, 8, 8 + 4 * number)))
        waiting.append(list(clips[-1].split(data.draw(cuts(length)), dim=2)))
        streams.append(tokenizer.stream_encoder())
        outs.append([])
    while any(waiting):
        number = data.draw(st.sampled_from([number for number in range(2) if waiting[number]]))
        outs[number].append(streams[number].push(waiting[number].pop(0)))
        if data.draw(st.booleans()):
            streams[number] = moved(streams[number], tokenizer.stream_encoder())
    for clip, stream, out in zip(clips, streams, outs, strict=True):
        repeated = -(clip.shape[2] - 1) % factor
        whole = torch.cat([clip, clip[:, :, -1:].expand(-1, -1, repeated, -1, -1)], dim=2)
        pieces = [piece for piece in [*out, stream.finish()] if piece is not None]
        assert_same(Encoded.join(pieces), tokenizer.encode(whole))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_chunks_of_latents_decode_alike(data: st.DataObject) -> None:
    """To what latents one by one give (which golden files hold for the released models), moved between or not."""
    tokenizer = tiny_tokenizer(data.draw(st.sampled_from(TINY_MODELS)))
    length = data.draw(st.integers(1, 7))
    latents = golden_clip("latents", (1, 3, length, 4, 4))
    expected = torch.cat(pushed(tokenizer.stream_decoder(), list(latents.split(1, dim=2))), dim=2)
    assert expected.shape[2] == 1 + (length - 1) * tokenizer.config.time_factor
    stream, got = tokenizer.stream_decoder(), []
    for piece in latents.split(data.draw(cuts(length)), dim=2):
        got.append(stream.push(piece))
        if data.draw(st.booleans()):
            stream = moved(stream, tokenizer.stream_decoder())
    got.append(stream.finish())
    assert_close(torch.cat([piece for piece in got if piece is not None], dim=2), expected.numpy(), "frames")


def test_frames_come_as_soon_as_nothing_can_change_them() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[1])
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    frames = golden_clip("soon", (1, 3, 8, 8, 8)).split(1, dim=2)
    came = [encoder.push(frame) for frame in frames]
    assert [0 if out is None else out.latents.shape[2] for out in came] == [1, 0, 0, 0, 1, 0, 0, 0]
    rest = encoder.finish()
    latents = [out.latents for out in [*came, rest] if out is not None]
    decoded = [decoder.push(latent) for latent in latents]
    assert [0 if out is None else out.shape[2] for out in decoded] == [0, 1, 4]
    assert decoder.finish().shape[2] == 4


def test_streams_of_nothing() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[0])
    assert tokenizer.stream_encoder().finish() is None
    assert tokenizer.stream_decoder().finish() is None


def test_the_state_does_not_grow_and_holds_no_chunk() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[1])
    stream = tokenizer.stream_encoder()
    sizes = []
    for _ in range(6):
        stream.push(golden_clip("grow", (1, 3, 16, 8, 8)))
        kept = stream.state_dict().values()
        # What is saved with a tensor is the whole memory behind it.
        file = io.BytesIO()
        torch.save(list(stream._stream.memory.kept.values()), file)
        sizes.append((sum(value.numel() for value in kept), file.tell()))
    # After the first chunk, whose first frame is alone, 3 frames wait at the most.
    assert len(set(sizes[1:])) == 1 and sizes[-1][1] < 1.5 * 4 * sizes[-1][0] + 40_000


def test_no_graph_hangs_on_a_stream() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        stream = VideoTokenizer(TINY_MODELS[0]).stream_encoder()
        assert not stream.push(golden_clip("graph", (1, 3, 3, 8, 8))).latents.requires_grad
        assert not any(value.requires_grad for value in stream.state_dict().values())


def test_a_sampled_stream_draws_from_its_generator() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[0])
    clip = golden_clip("sample", (1, 3, 3, 8, 8))
    first, second = (
        tokenizer.stream_encoder(sample=True, generator=torch.Generator().manual_seed(5)).push(clip) for _ in range(2)
    )
    assert torch.equal(first.latents, second.latents) and not torch.equal(first.latents, first.mean)
    assert float((first.latents - first.mean).abs().max()) > TOLERANCE


def test_only_version_1_1_streams() -> None:
    for name in ("vidtok_kl_causal_488_4chn", "vidtok_fsq_noncausal_488_262144"):
        for open_stream in (golden_tokenizer(name).stream_encoder, golden_tokenizer(name).stream_decoder):
            with pytest.raises(ValueError, match=f"{name} takes clips, not streams: .*version 1.1"):
                open_stream()


def test_refusals() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[3])
    with pytest.raises(ValueError, match="sample=True: tiny_fsq_2 is an FSQ model"):
        tokenizer.stream_encoder(sample=True)
    stream = tokenizer.stream_encoder()
    stream.push(torch.zeros(1, 3, 2, 8, 8))
    for shape, message in [
        ((1, 3, 2, 8, 10), r"shape \(1, 3, 2, 8, 10\): the stream was begun with \(B, H, W\) = \(1, 8, 8\)"),
        ((2, 3, 2, 8, 8), r"begun with \(B, H, W\) = \(1, 8, 8\)"),
        ((1, 4, 2, 8, 8), "4 channels"),
        ((1, 3, 2, 8, 9), "frame size 8x9"),
        ((1, 3, 0, 8, 8), "none of them 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            stream.push(torch.zeros(shape))
    stream.finish()
    with pytest.raises(ValueError, match="frames for a stream that is finished"):
        stream.push(torch.zeros(1, 3, 2, 8, 8))
    with pytest.raises(ValueError, match="frames for a stream that is finished"):
        moved(stream, tokenizer.stream_encoder()).push(torch.zeros(1, 3, 2, 8, 8))
    with pytest.raises(ValueError, match=r"latents have 4 channels"):
        tokenizer.stream_decoder().push(torch.zeros(1, 4, 1, 4, 4))
    with pytest.raises(ValueError, match="tokens lie between 0 and 512"):
        tokenizer.stream_decoder().push(torch.tensor([0, 512]).reshape(1, 1, 1, 2))


def test_states_that_are_not_this_streams() -> None:
    tokenizer, other = tiny_tokenizer(TINY_MODELS[1]), tiny_tokenizer(TINY_MODELS[4])
    stream = tokenizer.stream_encoder()
    stream.push(golden_clip("state", (1, 3, 9, 8, 8)))
    state = stream.state_dict()
    layer = next(name for name in state if name.startswith("layers."))
    for wrong, message in [
        ({name: value for name, value in state.items() if name != layer}, rf"it lacks \['{layer}'\]"),
        ({name: value for name, value in state.items() if name != "shape"}, r"it lacks \['shape'\]"),
        (state | {"layers.x": torch.zeros(1)}, r"has \['layers.x'\] besides"),
        ({}, "of another kind of stream or of another model than tiny_kl_4"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokenizer.stream_encoder().load_state_dict(wrong)
    for stranger in (tokenizer.stream_decoder(), other.stream_encoder()):
        with pytest.raises(ValueError, match="of another kind of stream or of another model"):
            stranger.load_state_dict(state)


def test_a_state_goes_over_to_another_dtype() -> None:
    tokenizer = tiny_tokenizer(TINY_MODELS[1])
    stream = tokenizer.stream_encoder()
    stream.push(golden_clip("dtype", (1, 3, 7, 8, 8)))
    with torch.inference_mode(False):
        half = VideoTokenizer(TINY_MODELS[1]).to(torch.bfloat16)
    half.load_state_dict({name: value.to(torch.bfloat16) for name, value in tokenizer.state_dict().items()})
    moved_to = half.stream_encoder()
    moved_to.load_state_dict(stream.state_dict())
    more = golden_clip("more", (1, 3, 6, 8, 8))
    expected, got = stream.push(more).mean, moved_to.push(more).mean
    assert float((expected - got).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("what", ["push", "finish"])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_failure_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch, what: str, half: str) -> None:
    """As when memory is short: what is pushed again, or in smaller pieces, goes on as if nothing had been."""
    tokenizer = tiny_tokenizer(TINY_MODELS[1])
    channels, side = (3, 8) if half == "encoder" else (3, 4)
    pieces = golden_clip("failure", (1, channels, 15, side, side)).split([2, 6, 7], dim=2)
    open_stream = tokenizer.stream_encoder if half == "encoder" else tokenizer.stream_decoder
    expected = pushed(open_stream(), list(pieces))
    stream = open_stream()
    got = [stream.push(piece) for piece in pieces[: 2 if what == "push" else 3]]
    network = getattr(tokenizer, half)
    with monkeypatch.context() as patch:
        whole = type(network.mid).forward

        def short_of_memory(self: torch.nn.Module, *arguments: object) -> None:
            whole(self, *arguments)  # whose layers have kept what they saw by then
            raise torch.OutOfMemoryError("injected")

        patch.setattr(type(network.mid), "forward", short_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            stream.push(pieces[2]) if what == "push" else stream.finish()
    if what == "push":
        got.append(stream.push(pieces[2]))
    got.append(stream.finish())
    for one, other in zip([out for out in got if out is not None], expected, strict=True):
        assert torch.equal(getattr(one, "latents", one), getattr(other, "latents", other))
