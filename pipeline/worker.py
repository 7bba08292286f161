"""One worker: a tokenizer on one device, and one shard after another."""

import uuid
from collections.abc import Callable
from typing import Any

import torch

from pipeline.batch_size import measured_batch_size
from pipeline.checkpoints import keep_compiled
from pipeline.config import ExecutorConfig, JobConfig
from pipeline.decoding.here import DecoderHere
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.encode import ClipEncoder
from pipeline.executors import WorkOrder
from pipeline.flow import VideoDecoder, Work, tokenize_shard
from pipeline.listed_videos import VideoFetcher
from pipeline.logs import about
from pipeline.parts import PROVENANCE
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.rows import row_schema
from pipeline.self_check import SelfCheck
from pipeline.shards import input_root
from pipeline.storage import open_store, retries
from pipeline.weights import load_job_weights
from vidtok_model import VideoTokenizer

__all__ = ["ShardWorker", "make_encoder"]


def _decoder(executor: ExecutorConfig) -> VideoDecoder:
    if executor.num_decoders == 0:
        return DecoderHere()
    limits = DecoderLimits(
        memory_bytes=executor.decoder_memory_bytes,
        stall_seconds=executor.stall_seconds,
        base_seconds=executor.decode_seconds,
    )
    return DecoderPool(executor.num_decoders, limits)


def make_encoder(job: JobConfig, tokenizer: VideoTokenizer, device: str) -> ClipEncoder:
    """The encoder as a job has it on a device, which `tokenizer` is on."""
    executor, is_on_gpu = job.executor, device == "cuda"
    batch_size = executor.batch_size or 1
    if executor.batch_size is None and is_on_gpu and not job.is_stream:
        clip_shape = (3, job.clip_frames, job.clips.size, job.clips.size)
        share = min(1.0, executor.gpus_per_worker or 1.0)
        batch_size = measured_batch_size(tokenizer, clip_shape, share=share)
    # Of a stream every segment, and with `keep` every size of videos, would be compiled anew.
    pays = is_on_gpu and not job.is_stream and job.clips.crop != "keep"
    compiles = pays if executor.compile is None else executor.compile
    if compiles:
        keep_compiled()
    return ClipEncoder(
        tokenizer,
        device=device,
        batch_size=batch_size,
        threads=executor.threads,
        compiles=compiles,
    )


class ShardWorker:
    """Does shards, in the process it is made in.

    Attributes:
        work: what stays the same from shard to shard.
    """

    def __init__(self, order: WorkOrder, on_progress: Callable[[Counters], None] = lambda _: None) -> None:
        """Loads the tokenizer, onto the first GPU that this process sees, else onto the CPU.

        Raises:
            ConfigError: the weights are gone or other ones.
            WorkerUnfit: the device does not compute what it should.
            StorageError: a store cannot be reached.
        """
        job = order.config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = job.storage.input.model_dump()
        tokenizer = load_job_weights(job, order.description, device=device, has_decoder=False)
        self._self_check = SelfCheck(device=device, dtype=job.model.dtype)
        encoder = make_encoder(job, tokenizer, device)
        run = {"device": device, "threads": job.executor.threads, "batch_size": encoder.batch_size}
        self.work = Work(
            config=job,
            tokenizer_config=tokenizer.config,
            input=open_store(input_root(job.input), options),
            output=open_store(job.output, job.storage.output.model_dump()),
            fetcher=VideoFetcher(job),
            decoder=_decoder(job.executor),
            encoder=encoder,
            schema=row_schema(
                is_discrete=tokenizer.config.is_discrete, logvar=job.rows.logvar, is_stream=job.is_stream
            ),
            # Where the input lies may change; what the rows are, and how to decode them, may not.
            provenance={**{name: order.description[name] for name in PROVENANCE}, "run": run},
            on_progress=on_progress,
            before_writing=self._self_check.if_due,
        )

    @property
    def counters(self) -> Counters:
        """Work done so far."""
        self.work.counters.storage_retries = retries()
        return self.work.counters

    def tokenize(self, shard: Shard) -> dict[str, Any]:
        """Tokenizes and commits one shard; returns the commit. See `tokenize_shard` for what it raises."""
        with about(shard=shard.shard_id):
            return tokenize_shard(shard, self.work, attempt_id=uuid.uuid4().hex)

    def close(self) -> None:
        """Ends the decoders."""
        self.work.decoder.close()
