"""The encoder on a device: transfers, memory that does not suffice, and kernels that are made for it.

No GPU is here: its memory runs out where a test says so, and its streams are a stand-in that keeps a diary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.batch_size import fitting_batch_size
from pipeline.encode import ClipEncoder, encode
from pipeline.errors import ShardError
from pipeline.records import Batch, Clip
from pipeline.transfers import CpuTransfer, CudaTransfer
from tests.records_for_tests import clip_of
from vidtok_model import VideoTokenizer, tiles
from vidtok_model.golden import golden_tokenizer

FSQ, KL = "vidtok_fsq_causal_488_32768", "vidtok_kl_causal_488_4chn"


def clips(count: int) -> list[Clip]:
    frames = np.random.default_rng(0).integers(0, 256, (count, 5, 16, 16, 3), np.uint8)
    return [replace(clip_of(), frames_THWC=one) for one in frames]


def encoder(tokenizer: VideoTokenizer, batch_size: int, **more: Any) -> ClipEncoder:
    return ClipEncoder(tokenizer, device="cpu", batch_size=batch_size, **more)


def memory_for(monkeypatch: pytest.MonkeyPatch, tokenizer: VideoTokenizer, most: int) -> list[int]:
    """Lets a GPU's memory hold so many clips; gives what was tried."""
    tried: list[int] = []
    encode = tokenizer.encode

    def limited(clips_BCTHW: torch.Tensor) -> Any:
        tried.append(len(clips_BCTHW))
        if len(clips_BCTHW) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB\nand more that nobody reads")
        return encode(clips_BCTHW)

    monkeypatch.setattr(tokenizer, "encode", limited)
    return tried


@pytest.mark.parametrize("name", [FSQ, KL])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder(golden_tokenizer(name), 6).begin(clips(6))()
    tokenizer = golden_tokenizer(name)
    tried = memory_for(monkeypatch, tokenizer, most=2)
    halving = encoder(tokenizer, 6)
    for _ in range(2):
        for got, wanted in zip(halving.begin(clips(6))(), expected, strict=True):
            for kind in ("tokens_THW", "latents_CTHW", "logvar_CTHW"):
                one, other = getattr(got, kind), getattr(wanted, kind)
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_allclose(one, other, atol=1e-5)
    assert tried == [6, 3, 2, 2, 2, 2, 2, 2]  # equal pieces, and known from then on


def test_pieces_are_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five clips, of which three are done at once: the second piece is filled up, so that there is one shape."""
    tokenizer = golden_tokenizer(FSQ)
    expected = encoder(golden_tokenizer(FSQ), 5).begin(clips(5))()
    tried = memory_for(monkeypatch, tokenizer, most=3)
    got = encoder(tokenizer, 5).begin(clips(5))()
    assert tried == [5, 3, 3]
    assert all(np.array_equal(one.tokens_THW, other.tokens_THW) for one, other in zip(got, expected, strict=True))


def test_where_not_even_one_fits_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = golden_tokenizer(FSQ)
    tried = memory_for(monkeypatch, tokenizer, most=0)
    message = "^5 frames of 16x16 do not fit into the memory of cpu: CUDA out of memory. Tried to allocate 7 GiB$"
    with pytest.raises(ShardError, match=message):
        encoder(tokenizer, 3).begin(clips(3))
    assert tried == [3, 2, 1]


@pytest.mark.parametrize(
    ("needed", "expected"), [(10, 1), (149, 1), (150, 2), (249, 2), (250, 4), (449, 4), (450, 8), (10**6, 64)]
)
def test_the_batch_size_is_what_the_memory_holds(needed: int, expected: int) -> None:
    """The first clip takes 100 bytes, each further one 50; of what there is a part is left free."""
    assert fitting_batch_size(lambda count: 100 + 50 * (count - 1), int(needed / 0.85) + 1) == expected


def test_the_batch_size_is_one_where_two_do_not_fit() -> None:
    def peak_bytes(count: int) -> int:
        if count > 1:
            raise torch.OutOfMemoryError
        return 100

    assert fitting_batch_size(peak_bytes, 10**9) == 1


class Diary:
    """What PyTorch has of CUDA, as far as it is used: everything is written down."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._now = "computing"
        diary, numbers = self, iter(range(100))

        class Event:
            def __init__(self, *, blocking: bool) -> None:
                assert blocking, "a wait would take a core"
                self.name = f"event {next(numbers)}"

            def record(self, stream: str) -> None:
                diary.entries.append(f"{stream} records {self.name}")

            def synchronize(self) -> None:
                diary.entries.append(f"the host waits for {self.name}")

        class Computing:
            def wait_event(self, event: Event) -> None:
                diary.entries.append(f"computing waits for {event.name}")

            def __str__(self) -> str:
                return "computing"

        self.Event = Event
        self._computing = Computing()

    def Stream(self, _: torch.device) -> str:
        return "copying"

    def current_stream(self, _: torch.device) -> Any:
        return self._computing

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        yield


def test_a_buffer_is_filled_again_when_it_was_copied() -> None:
    cuda = Diary()
    transfer = CudaTransfer(torch.device("cpu"), cuda)
    sent = [transfer.send([clip], 1) for clip in clips(3)]
    assert cuda.entries == [
        "copying records event 0",
        "computing waits for event 0",
        "copying records event 1",
        "computing waits for event 1",
        "the host waits for event 0",
        "copying records event 0",
        "computing waits for event 0",
    ]
    # On a CPU nothing is copied, so that the third is where the first was.
    assert [one.data_ptr() == sent[0].data_ptr() for one in sent] == [True, False, True]


def test_results_are_waited_for_when_they_are_taken() -> None:
    cuda = Diary()
    transfer = CudaTransfer(torch.device("cpu"), cuda)
    wait = transfer.fetch([torch.arange(3), torch.ones(2)])
    assert cuda.entries == ["computing records event 0"]
    numbers, ones = wait()
    assert cuda.entries[1:] == ["the host waits for event 0"]
    assert numbers.tolist() == [0, 1, 2] and ones.tolist() == [1, 1]


@pytest.mark.parametrize("make", [CpuTransfer, lambda: CudaTransfer(torch.device("cpu"), Diary())])
def test_what_is_missing_in_a_batch_is_black(make: Callable[[], Any]) -> None:
    transfer = make()
    some = clips(3)
    transfer.send(some, 3)
    for _ in range(2):  # in either buffer
        sent = transfer.send(some[:1], 3)
        assert np.array_equal(sent[0], some[0].frames_THWC) and not sent[1:].any()


def test_a_batch_is_begun_before_the_results_of_the_one_before_are_taken() -> None:
    happened: list[str] = []

    class Stub:
        num_ahead = 1

        def begin_thread(self) -> None:
            happened.append("thread")

        def begin(self, some: list[Clip]) -> Callable[[], list[Any]]:
            name = str(len(some))
            happened.append(f"begin {name}")

            def results() -> list[Any]:
                happened.append(f"take {name}")
                return [name] * len(some)

            return results

    batches = [Batch(clips=clips(count), ends=[]) for count in (1, 2, 0, 3)]
    encoded = list(encode(iter(batches), Stub()))  # type: ignore[arg-type]
    assert [results for _, results in encoded] == [["1"], ["2"] * 2, [], ["3"] * 3]
    assert happened == ["thread", "begin 1", "begin 2", "take 1", "take 2", "begin 3", "take 3"]
    happened.clear()
    batches = [Batch(clips=clips(count), ends=[]) for count in (1, 2, 3)]
    ready = iter([False, True, False, True, True])
    list(encode(iter(batches), Stub(), lambda: next(ready)))  # type: ignore[arg-type]
    # Where the next batch is not there yet, results are taken rather than waited for with it.
    assert happened == ["thread", "begin 1", "take 1", "begin 2", "begin 3", "take 2", "take 3"]
    # What is left of a clip's frames is their shape.
    assert [clip.frames_THWC.shape for clip in encoded[1][0].clips] == [(5, 16, 16, 3)] * 2
    assert all(clip.frames_THWC.strides == (0, 0, 0, 0) for clip in encoded[1][0].clips)


@pytest.mark.parametrize("name", [FSQ, KL])
def test_the_encoder_is_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU has it: nothing is parted. Captured whole, or torch.compile would fall back to pieces between Python."""
    monkeypatch.setattr(tiles, "_TILE_BYTES", 2**40)
    tokenizer = golden_tokenizer(name)
    frames = tokenizer.encoder_input(torch.linspace(-1, 1, 3 * 5 * 16 * 16).view(1, 3, 5, 16, 16))
    monkeypatch.setattr("vidtok_model.packing._packs", lambda *_: False)
    compiled = torch.compile(tokenizer.encoder, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(frames), tokenizer.encoder(frames), rtol=1e-5, atol=1e-5)
