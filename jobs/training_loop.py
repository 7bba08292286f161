"""What each worker of a training does, whoever started it: read clips, iterate, save, look at it now and then."""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.train_config import TrainingJob
from jobs.training_observer import Observer
from jobs.training_states import TrainingStates
from pipeline.checkpoints import Weights
from pipeline.encode import frames_to_clips
from pipeline.storage import Store, open_store
from pipeline.training_clips import TrainingClips
from pipeline.training_videos import TrainingVideos
from pipeline.weights import load_weights
from vidtok_model import VideoTokenizer, random_tokenizer, save_tokenizer
from vidtok_model.metrics import load_lpips
from vidtok_model.training import Trainer

__all__ = ["MODEL_FILE", "VIDEOS_FILE", "Rank", "train"]

MODEL_FILE, VIDEOS_FILE = "model.safetensors", "videos.parquet"
# Batches that wait, decoded, for their iteration.
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A worker's place among the workers.

    Attributes:
        number: from 0.
        count: of workers.
        device: a torch device.
        threads: PyTorch's, on a CPU.
    """

    number: int
    count: int
    device: torch.device
    threads: int


def train(job: TrainingJob, start: Weights, rank: Rank, on_log: Callable[[dict[str, float]], None]) -> None:
    """Trains one stage to its end, from where its output says that it stands.

    Args:
        job: the stage.
        start: the weights that it begins with.
        rank: this worker's place. PyTorch's process group is set up, if there are several.
        on_log: called every `log_every` iterations, by each worker.
    """
    torch.set_num_threads(rank.threads)
    store = open_store(job.output, job.storage.model_dump())
    states = TrainingStates(store, keep=job.keep)
    trainer = _trainer(job, start, rank)
    step = 0
    if (newest := states.newest()) is not None:
        step, state = newest
        trainer.load_state_dict(state)
    with closing(_clips(job, store)) as clips, Observer(job, store, rank, step) as observer:
        began, begun = time.monotonic(), step
        for numbers, batch in _batches(job, clips, rank, step):
            terms = trainer.iterate(batch, numbers, step)
            step += 1
            if step % job.log_every == 0 or step == job.training.steps:
                terms |= {"step": step, "seconds_per_step": (time.monotonic() - began) / (step - begun)}
                observer.tell(step, terms)
                on_log(terms)
                began, begun = time.monotonic(), step
            observer.look(step, trainer)
            if rank.number == 0 and (step % job.save_every == 0 or step == job.training.steps):
                states.save(step, trainer.state_dict())
                observer.flush()
    if rank.number == 0:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, MODEL_FILE)
            save_tokenizer(trainer.average, path)
            store.put(MODEL_FILE, path.read_bytes())


def _trainer(job: TrainingJob, start: Weights, rank: Rank) -> Trainer:
    if start.is_random:
        tokenizer = random_tokenizer(job.model.tokenizer_config(), seed=start.seed).to(rank.device)
    else:
        tokenizer = load_start(job, start, device=str(rank.device))
    lpips = load_lpips(job.lpips, device=rank.device) if job.lpips else None
    return Trainer(tokenizer, job.training, lpips=lpips, seed=job.model.seed)


def load_start(job: TrainingJob, start: Weights, *, device: str) -> VideoTokenizer:
    """The model with the weights of a checkpoint that a stage begins with.

    Raises:
        ConfigError: they are gone, other ones, or another model's.
    """
    return load_weights(
        job.model.tokenizer_config(),
        start,
        checkpoint=job.model.start,
        device=device,
        dtype=torch.float32,
        options=job.storage.model_dump(),
        key="model.start",
    )


def _clips(job: TrainingJob, store: Store) -> TrainingClips:
    places = TrainingVideos.from_bytes(store.read(VIDEOS_FILE))
    videos = TrainingVideos(job.input, job.storage.model_dump(), places)
    return TrainingClips(videos, job.clips, seed=job.model.seed, num_decoders=job.executor.decoders)


def _batches(
    job: TrainingJob, clips: TrainingClips, rank: Rank, first_step: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """This rank's share of each iteration's clips, and their numbers; the next ones are made meanwhile."""
    share = [
        [step * job.batch_size + place for place in range(rank.number, job.batch_size, rank.count)]
        for step in range(first_step, job.training.steps)
    ]
    made: queue.Queue[Any] = queue.Queue(_AHEAD)
    is_over = threading.Event()

    def put(item: Any) -> None:
        while not is_over.is_set():  # nobody takes it then
            with suppress(queue.Full):
                made.put(item, timeout=0.2)
                return

    def make() -> None:
        try:
            frames = clips.clips([number for numbers in share for number in numbers])
            for numbers in share:
                if is_over.is_set():
                    return
                put((numbers, np.stack([next(frames) for _ in numbers])))
        except BaseException as error:  # told where the batch is waited for
            put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        for _ in share:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            numbers, frames_BTHWC = item
            on_device = torch.from_numpy(frames_BTHWC).to(rank.device, non_blocking=True)
            yield numbers, frames_to_clips(on_device)
    finally:
        is_over.set()
        thread.join()
