"""What a person sees of a training: figures, and pictures of videos that it does not learn from, in TensorBoard."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from jobs.train_config import TrainingJob
from pipeline.encode import frames_to_clips
from pipeline.reconstruct import clips_to_frames
from pipeline.storage import Store
from pipeline.training_clips import TrainingClips
from pipeline.training_videos import TrainingVideos, index_videos
from vidtok_model.metrics import psnr, ssim
from vidtok_model.training import Trainer

if TYPE_CHECKING:
    from jobs.training_loop import Rank

__all__ = ["Observer", "say"]

_FOLDER = "tensorboard"
_PICTURED, _PICTURED_FRAMES = 4, 5


def say(line: str) -> None:
    """Prints a line once: Ray Train takes `print` for itself in its workers, and shows what it prints twice."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Observer:
    """Of the first worker alone; that of the others does nothing."""

    def __init__(self, job: TrainingJob, store: Store, rank: "Rank", step: int) -> None:
        """Takes what to look at.

        Args:
            job: the stage.
            store: its output.
            rank: this worker's place.
            step: iterations done before; what earlier files say of later ones is left out.
        """
        self._job = job
        self._store = store
        self._device = rank.device
        self._is_blind = rank.number != 0
        self._step = step
        self._clips_BCTHW: torch.Tensor | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        """Opens the files."""
        if not self._is_blind:
            from torch.utils.tensorboard import SummaryWriter

            is_local = self._store.is_local
            folder = self._store.root if is_local else self._cleanup.enter_context(tempfile.TemporaryDirectory())
            self._folder = Path(folder, _FOLDER)
            self._writer: Any = SummaryWriter(str(self._folder), purge_step=self._step + 1)
            self._cleanup.callback(self._writer.close)
            if self._job.validation is not None:
                self._clips_BCTHW = self._validation_clips()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Writes what is left."""
        if not self._is_blind:
            self.flush()
        self._cleanup.close()

    def tell(self, step: int, terms: dict[str, float]) -> None:
        """Writes figures of an iteration."""
        if not self._is_blind:
            for name, value in terms.items():
                if name != "step":
                    self._writer.add_scalar(f"training/{name}", value, step)

    def look(self, step: int, trainer: Trainer) -> None:
        """Where it is time, judges the running mean of the weights on videos that are not learned from."""
        validation = self._job.validation
        is_due = validation is not None and (step % validation.every == 0 or step == self._job.training.steps)
        if self._is_blind or not is_due or self._clips_BCTHW is None:
            return
        tokenizer = trainer.average
        psnrs, ssims = [], []
        for number, clip_CTHW in enumerate(self._clips_BCTHW):
            clip_BCTHW = clip_CTHW[None].to(self._device)
            with torch.no_grad():
                latents = tokenizer.encode(clip_BCTHW).latents
                decoded = tokenizer.decode(latents, clip_BCTHW.shape[2]).clamp(-1, 1)
            psnrs.append(float(psnr(clip_BCTHW, decoded).mean()))
            ssims.append(float(ssim(clip_BCTHW, decoded).mean()))
            if number < _PICTURED:
                self._writer.add_image(f"validation/{number}", _picture(clip_BCTHW, decoded), step, dataformats="HWC")
        found = {"psnr": float(np.mean(psnrs)), "ssim": float(np.mean(ssims))}
        for name, value in found.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        say(f"step {step}: validation PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}")

    def flush(self) -> None:
        """Makes what was written last over this process's death."""
        if self._is_blind:
            return
        self._writer.flush()
        if not self._store.is_local:
            for file in self._folder.iterdir():
                self._store.put(f"{_FOLDER}/{file.name}", file.read_bytes())

    def _validation_clips(self) -> torch.Tensor:
        validation = self._job.validation
        assert validation is not None
        options = self._job.storage.model_dump()
        videos = TrainingVideos(validation.input, options, index_videos(validation.input, options))
        config = self._job.clips.model_copy(
            update={"fps": validation.fps, "crop": "center", "flip": False, "cache": False, "resize": None}
        )
        clips = TrainingClips(videos, config, seed=0, num_decoders=1)
        try:
            frames_BTHWC = np.stack(list(clips.clips(range(validation.num_clips))))
        finally:
            clips.close()
        return frames_to_clips(torch.from_numpy(frames_BTHWC))


def _picture(given_BCTHW: torch.Tensor, decoded_BCTHW: torch.Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Some frames side by side, as they were above what came of them."""
    numbers = np.linspace(0, given_BCTHW.shape[2] - 1, _PICTURED_FRAMES).round().astype(int)
    rows = [np.concatenate(list(clips_to_frames(clips)[0][numbers]), axis=1) for clips in (given_BCTHW, decoded_BCTHW)]
    return np.concatenate(rows)
