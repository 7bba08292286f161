"""`vidtok train`: one stage of training on Ray Train, one worker on a CPU as well as many on GPUs."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from jobs.train_config import TrainingJob
from jobs.training_loop import MODEL_FILE, VIDEOS_FILE, Rank, load_start, train
from jobs.training_observer import say
from jobs.training_states import TrainingStates
from pipeline.checkpoints import Weights, local_file, sha256_of
from pipeline.dataset import plan_difference
from pipeline.errors import ConfigError, TrainingFailed
from pipeline.model_config import RANDOM_CHECKPOINT
from pipeline.secrets import storable
from pipeline.storage import absolute_url, open_store
from pipeline.training_videos import TrainingVideos, index_videos
from vidtok_model.metrics import load_lpips

__all__ = ["run_training"]

_DESCRIPTION = "training.json"


def run_training(job: TrainingJob) -> str:
    """Trains one stage, or goes on with one; returns where its model lies.

    Raises:
        ConfigError: the job cannot run as it is, or another stage stands in its output.
        StorageError: a store failed.
    """
    options = job.storage.model_dump()
    store = open_store(job.output, options)
    start = _start(job)
    description = _describe(job, start)
    standing = store.read_if_there(_DESCRIPTION)
    has_begun = bool(TrainingStates(store, keep=job.keep).steps()) or store.read_if_there(MODEL_FILE) is not None
    if standing is not None and has_begun:
        _check_same(json.loads(standing), description, store.root)
    else:
        _check_parts(job, start)
        places = index_videos(job.input, options)
        store.put(VIDEOS_FILE, TrainingVideos.to_bytes(places))
        store.put(_DESCRIPTION, json.dumps(description, indent=1).encode())
    if store.read_if_there(MODEL_FILE) is None:
        _fit(job, start)
    return f"{store.root}/{MODEL_FILE}"


def _start(job: TrainingJob) -> Weights:
    if job.model.start == RANDOM_CHECKPOINT:
        return Weights(checkpoint=RANDOM_CHECKPOINT, identity=f"seed {job.model.seed}", seed=job.model.seed)
    _, sha256 = local_file(job.model.start, job.storage.model_dump(), key="model.start")
    return Weights(checkpoint=storable(job.model.start), identity=sha256)


def _check_parts(job: TrainingJob, start: Weights) -> None:
    """Opens what every worker will open, so that a person hears at once of what none of them can."""
    if not start.is_random:
        load_start(job, start, device="cpu")
    if job.validation is not None:
        index_videos(job.validation.input, job.storage.model_dump())


def _describe(job: TrainingJob, start: Weights) -> dict[str, Any]:
    """The stage: what it learns from, and with what. Where it runs may change."""
    plan = {
        "model": job.model.tokenizer_config().to_dict(),
        "start": start.identity,
        "seed": job.model.seed,
        "input": [job.input.kind, *(storable(absolute_url(pattern)) for pattern in job.input.patterns)],
        "clips": job.clips.model_dump(),
        "batch_size": job.batch_size,
        "training": asdict(job.training),
        "lpips": _lpips(job),
    }
    return {"plan": plan, "versions": {name: version(name) for name in ("vidtok-pipeline", "torch", "ray")}}


def _lpips(job: TrainingJob) -> list[str]:
    """The sha256 of each file of LPIPS's weights, which together are whole."""
    if not job.lpips:
        return []
    try:
        load_lpips(job.lpips)
    except ValueError as error:
        raise ConfigError(f"lpips: {error}") from None
    return [sha256_of(Path(path)) for path in job.lpips]


def _check_same(standing: Mapping[str, Any], description: Mapping[str, Any], root: str) -> None:
    if differences := plan_difference(standing["plan"], description["plan"], holder="the stage"):
        raise ConfigError(
            [f"output: another stage of training stands in {root}:", *(f"  {line}" for line in differences)]
        )


def _fit(job: TrainingJob, start: Weights) -> None:
    executor = job.executor
    if not ray.is_initialized():
        ray.init(address=executor.address, include_dashboard=None, logging_level=logging.WARNING)
    resources = {"CPU": executor.cpus_per_worker}
    if executor.gpus_per_worker:
        resources["GPU"] = executor.gpus_per_worker
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, of_one in resources.items():
        has, wants = there.get(name, 0), of_one * executor.num_workers
        if has < wants:
            say(f"executor: {executor.num_workers} workers want {wants:g} {name}s, the cluster has {has:g}: waiting")
    with tempfile.TemporaryDirectory() as folder:  # Ray wants a place for its own records; ours are in the output
        trainer = ray.train.torch.TorchTrainer(
            _work,
            train_loop_config={"job": job.model_dump(mode="json"), "start": vars(start)},
            scaling_config=ray.train.ScalingConfig(
                num_workers=executor.num_workers, use_gpu=bool(executor.gpus_per_worker), resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=executor.max_failures),
                **_quiet(),
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(_causes(error)) from error


def _quiet() -> dict[str, Any]:
    """Without what Ray says of its own progress, as far as this Ray knows how."""
    kind = getattr(ray.train, "LoggingConfig", None)
    return {} if kind is None else {"logging_config": kind(log_level="WARNING")}


def _causes(error: Exception) -> str:
    """What the workers said, without Ray's traces."""
    failures = getattr(error, "worker_failures", {})
    said = [f"worker {rank}: {type(cause).__name__}: {cause}" for rank, cause in sorted(failures.items())]
    return "training failed: " + ("; ".join(said) or str(error))


def _work(config: dict[str, Any]) -> None:
    """A worker of Ray Train."""
    job, start = TrainingJob.model_validate(config["job"]), Weights(**config["start"])
    context = ray.train.get_context()
    rank = Rank(
        number=context.get_world_rank(),
        count=context.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=max(1, int(job.executor.cpus_per_worker)),
    )

    def on_log(terms: dict[str, float]) -> None:
        # Not to Ray Train as well: it would print each report once more for each worker.
        if rank.number == 0:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if name != "step")
            say(f"step {terms['step']} of {job.training.steps}: {figures}")

    if not job.lpips and job.training.perceptual_weight and rank.number == 0:
        say("lpips: no weights are given, so this term of the loss is left out")
    is_imitated = rank.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if job.training.precision == "bf16" and is_imitated and rank.number == 0:
        say("training.precision: bf16 is slow on this CPU, which has no arithmetic of it; fp32 is faster here")
    train(job, start, rank, on_log)
