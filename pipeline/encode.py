"""encode: batches of uint8 frames through the tokenizer's encoder."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator

import torch

from pipeline.errors import ShardError
from pipeline.records import Batch, Clip, EncodedClip
from pipeline.transfers import CpuTransfer, CudaTransfer, Transfer
from vidtok_model import Encoded, StreamEncoder, VideoTokenizer

__all__ = [
    "TORCH_DTYPES",
    "ClipEncoder",
    "encode",
    "frames_to_clips",
    "set_arithmetic",
]

TORCH_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


def encode(
    batches: Iterator[Batch], encoder: "ClipEncoder", is_ready: Callable[[], bool] = lambda: True
) -> Generator[tuple[Batch, list[EncodedClip]]]:
    """Encodes every batch; with each, one EncodedClip for each of its clips, whose frames are let go of.

    Args:
        batches: what to encode.
        encoder: what with.
        is_ready: whether the next batch is there. Where it is not, the results of those under way are waited for first:
            so they wait for no other batch, and what is waited for the next one is time in which the device has nothing
            to do.
    """
    under_way: deque[tuple[Batch, Callable[[], list[EncodedClip]]]] = deque()
    encoder.begin_thread()
    while True:
        while under_way and (len(under_way) > encoder.num_ahead or not is_ready()):
            yield _finished(*under_way.popleft())
        batch = next(batches, None)
        if batch is not None:
            under_way.append((batch, encoder.begin(batch.clips) if batch.clips else list))
        elif not under_way:
            return
        else:
            yield _finished(*under_way.popleft())


def _finished(batch: Batch, results: Callable[[], list[EncodedClip]]) -> tuple[Batch, list[EncodedClip]]:
    encoded = results()
    batch.clips = [clip.without_frames() for clip in batch.clips]
    return batch, encoded


def frames_to_clips(frames_BTHWC: torch.Tensor) -> torch.Tensor:
    """uint8 RGB frames (B, T, H, W, 3) as clips (B, 3, T, H, W), float32 in [-1, 1], in the same order in memory."""
    return (frames_BTHWC.float() / 127.5 - 1).permute(0, 4, 1, 2, 3)


def set_arithmetic(dtype: str) -> None:
    """Lets GPUs round what float32 products take to TF32, unless the dtype is `fp32`.

    With bf16 and fp16 that are the networks' ends, where TF32 has more digits than the pixels.
    """
    torch.backends.cuda.matmul.allow_tf32 = dtype != "fp32"
    torch.backends.cudnn.allow_tf32 = dtype != "fp32"


class ClipEncoder:
    """The encoder on one device, fed with batches of one static shape."""

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        *,
        device: str,
        batch_size: int,
        threads: int = 1,
        compiles: bool = False,
        transfer: Transfer | None = None,
    ) -> None:
        """Takes over `tokenizer`, which must be on `device` already.

        Args:
            tokenizer: the model.
            device: a torch device.
            batch_size: clips of every batch; fewer are filled up with black, so that the shape never changes.
            threads: of a CPU.
            compiles: whether torch.compile makes kernels for the shapes that come.
            transfer: to the device; None: the one for its kind.
        """
        self.batch_size = batch_size
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._threads = threads
        self._at_once: dict[torch.Size, int] = {}  # of a batch of some shape, what was seen to fit into the memory
        self._transfer = transfer or (CudaTransfer(self._device) if self._device.type == "cuda" else CpuTransfer())
        self._stream: StreamEncoder | None = None  # of the video whose segments come
        if compiles:
            tokenizer.encoder.compile(dynamic=False)

    @property
    def num_ahead(self) -> int:
        """Batches that may be begun before the results of an earlier one are taken."""
        return self._transfer.num_ahead

    def begin_thread(self) -> None:
        """Sets what PyTorch keeps for each thread; to be called in that which encodes."""
        torch.set_num_threads(self._threads)  # part of what makes two runs give the same bits

    def begin(self, clips: list[Clip]) -> Callable[[], list[EncodedClip]]:
        """Begins to encode up to `batch_size` clips of one size; what it returns waits for the results.

        Raises:
            ShardError: not even one clip fits into the device's memory.
        """
        with torch.inference_mode():
            try:
                encoded = self._encode(self._transfer.send(clips, self.batch_size), clips[0].segment_index)
            except torch.OutOfMemoryError as error:
                frames, height, width, _ = clips[0].frames_THWC.shape
                what = f"{frames} frames of {width}x{height} do not fit into the memory of {self._device}"
                raise ShardError(f"{what}: {str(error).splitlines()[0]}") from None
            if encoded.tokens is not None:
                tokens = self._transfer.fetch([encoded.tokens.int()])
                return lambda: [EncodedClip(tokens_THW=one) for one in tokens()[0][: len(clips)]]
            assert encoded.mean is not None and encoded.logvar is not None, "a KL model gives both"
            both = self._transfer.fetch([encoded.mean, encoded.logvar])
        return lambda: [
            EncodedClip(latents_CTHW=mean, logvar_CTHW=logvar) for mean, logvar, _ in zip(*both(), clips, strict=False)
        ]

    def _encode(self, frames_BTHWC: torch.Tensor, segment_index: int | None) -> Encoded:
        if segment_index is not None:
            return self._push(frames_BTHWC, segment_index)
        while True:
            at_once = self._at_once.setdefault(frames_BTHWC.shape, len(frames_BTHWC))
            try:
                return self._encode_pieces(frames_BTHWC, at_once)
            except torch.OutOfMemoryError:
                if at_once == 1:
                    raise
                self._at_once[frames_BTHWC.shape] = at_once = -(-at_once // 2)
                log.warning("%s has no memory for more: %d clips are encoded at once now", self._device, at_once)
            # Behind the except block, whose exception holds on to what was computed so far.
            torch.cuda.empty_cache()

    def _encode_pieces(self, frames_BTHWC: torch.Tensor, at_once: int) -> Encoded:
        """A batch in pieces of one size, the last one filled up too."""
        missing = -len(frames_BTHWC) % at_once
        if missing:
            frames_BTHWC = torch.cat([frames_BTHWC, frames_BTHWC.new_zeros(missing, *frames_BTHWC.shape[1:])])
        pieces = [self._tokenizer.encode(frames_to_clips(piece)) for piece in torch.split(frames_BTHWC, at_once)]
        return pieces[0] if len(pieces) == 1 else Encoded.side_by_side(pieces)

    def _push(self, frames_BTHWC: torch.Tensor, segment_index: int) -> Encoded:
        if segment_index == 0:
            self._stream = self._tokenizer.stream_encoder()
        assert self._stream is not None, "a stream's segments come in order"
        encoded = self._stream.push(frames_to_clips(frames_BTHWC))
        assert encoded is not None, "a segment's frames are a whole number of latents"
        return encoded
