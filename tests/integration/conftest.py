import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.integration.gate import Gate
from tests.integration.places import unbroken_job
from tests.jobs_for_tests import pack_real_clips

# Ray's logical cores: more than a small machine has, so that three actors find a place on it.
RAY_CORES = 4
# Invented ones: Ray hands them out, and torch finds none.
RAY_GPUS = 2


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests of this folder: the executor joins it and leaves it running."""
    ray.init(address="local", num_cpus=RAY_CORES, num_gpus=RAY_GPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The local dataset of a file's `shards` (`pack_small_shards`), that all others are held against."""
    return unbroken_job(shards, tmp_path_factory.mktemp("unbroken"))


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed gate, for workers that are started with its environment."""
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="session")
def real_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real clips in local shards."""
    return pack_real_clips(tmp_path_factory.mktemp("real") / "shards")


@dataclass(frozen=True)
class Place:
    """Where a test's input and output lie."""

    shards: str
    storage: dict[str, Any]
    new_output: Callable[[], str]


@pytest.fixture(scope="session", params=["local", "s3"])
def place(request: pytest.FixtureRequest, real_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The real shards and room for datasets: on the local disk, and on S3."""
    numbers = itertools.count()
    if request.param == "local":
        folder = tmp_path_factory.mktemp("datasets")
        return Place(str(real_shards / "*.tar"), {}, lambda: str(folder / f"dataset{next(numbers)}"))
    import boto3

    endpoint, name = request.getfixturevalue("s3_endpoint"), request.getfixturevalue("bucket")
    client = boto3.client("s3", endpoint_url=endpoint)
    for path in sorted(real_shards.iterdir()):
        client.upload_file(str(path), name, f"shards/{path.name}")
    side = {"endpoint_url": endpoint}
    return Place(f"s3://{name}/shards/", {"input": side, "output": side}, lambda: f"s3://{name}/dataset{next(numbers)}")
