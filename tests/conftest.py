"""What holds for every test: a known environment, and no real account within reach."""

import os
from collections.abc import Iterator
from pathlib import Path

# The environment is set here, at import, before a test module imports torch or Ray, which read it once. Child processes
# inherit it.
_ENVIRONMENT = {
    # Sums depend on how they are split over threads: the same everywhere, and no more than a small CI machine has.
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    # Threads that spin while they wait starve those that they wait for, where other processes need the cores too.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Unset, Ray turns token authentication on where it finds a token in the home folder.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # The behaviour that Ray announces for actors without GPUs; it warns until told.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # S3 clients want some credentials, and must not find real ones.
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# What would lead a test to somebody's cluster, bucket or account. Prefixes.
_FORGOTTEN = (
    "AWS_CONTAINER_",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_",
    "AZURE_",
    "FSSPEC_",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
)
for _name in [name for name in os.environ if name.startswith(_FORGOTTEN)]:
    del os.environ[_name]
os.environ.update(_ENVIRONMENT)

import hypothesis  # noqa: E402  (after the environment)
import pytest  # noqa: E402

from tests.support import ROOT, require, require_module, required_names  # noqa: E402

# No deadline for one example: machines are shared, and pytest-timeout has the last word. In CI, the same examples each
# time.
hypothesis.settings.register_profile("vidtok", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("vidtok")


def pytest_configure() -> None:
    """Refuse a misspelt VIDTOK_REQUIRE at once."""
    required_names()


@pytest.fixture(autouse=True)
def same_priority() -> Iterator[None]:
    """A process that became a real-time one would starve all others, and whatever later tests measure."""
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "this test left the process with another scheduling policy"


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real clips beside the checkout; tests that ask for it are skipped where it is missing."""
    folder = ROOT.parent / "shared" / "videos"
    require("shared-videos", folder.is_dir(), f"no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server of moto's, in this process."""
    require_module("s3fs")
    require_module("moto")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def bucket(s3_endpoint: str) -> str:
    """The name of a bucket on `s3_endpoint`."""
    import boto3

    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="corpus")
    return "corpus"


@pytest.fixture(scope="session")
def ceph_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ceph S3 server with a bucket `corpus`: the real thing, where it is installed."""
    from tests.servers.ceph import Ceph, missing_programs

    missing = missing_programs()
    require("ceph", not missing, f"no {', '.join(missing)}")
    require("ceph", os.geteuid() == 0, "Ceph's daemons want to be started as root")
    import boto3

    server = Ceph(tmp_path_factory.mktemp("ceph"))
    try:
        boto3.client("s3", endpoint_url=server.endpoint).create_bucket(Bucket="corpus")
        yield server.endpoint
    finally:
        server.stop()
