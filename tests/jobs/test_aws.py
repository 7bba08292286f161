"""Terraform makes infra/aws on moto; its roles suffice for what a dataset goes through, and allow nothing beside it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml

from tests.integration.places import pack_small_shards
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import SMALL_JOB, merge
from tests.servers.process import end, free_port, start, wait_for_port
from tests.support import ROOT, require, require_module

# What lets a call of the S3 API pass, by AWS's table of actions for S3 (Service Authorization Reference).
ACTIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
# Terraform's AWS provider is told where moto is, and to ask nobody else.
PROVIDER = """
provider "aws" {{
  region                      = "us-east-1"
  access_key                  = "testing"
  secret_key                  = "testing"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  s3_use_path_style           = true
  endpoints {{
    s3  = "{0}"
    iam = "{0}"
    sts = "{0}"
  }}
}}
"""


@dataclass
class Aws:
    """Moto with what Terraform made on it; what the role that was taken may, and the calls that were seen since."""

    endpoint: str
    allowed: set[tuple[str, str]] = field(default_factory=set)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def client(self, service: str, **credentials: str) -> Any:
        return boto3.client(service, endpoint_url=self.endpoint, **credentials)

    def policy(self, role: str) -> set[tuple[str, str]]:
        """(bucket, action) of all that it allows: actions on a bucket name it, those on its objects add /*."""
        document = self.client("iam").get_role_policy(RoleName=f"datasets-{role}", PolicyName=role)["PolicyDocument"]
        allowed = set()
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            actions, resources = (
                [value] if isinstance(value, str) else value for value in (statement["Action"], statement["Resource"])
            )
            for resource in resources:
                on_objects = resource.endswith("/*")
                for action in actions:
                    assert on_objects == (action != "s3:ListBucket"), (action, resource)
                    allowed.add((resource.removeprefix("arn:aws:s3:::").removesuffix("/*"), action))
        return allowed


def terraform_program() -> tuple[str, Path]:
    program, plugins = shutil.which("terraform"), Path(os.environ.get("TF_PLUGINS", "/opt/tf-plugins"))
    require("terraform", program is not None and plugins.is_dir(), f"no terraform, or no providers in {plugins}")
    return str(program), plugins


def terraform(folder: Path, *arguments: str) -> str:
    program, plugins = terraform_program()
    more = [f"-plugin-dir={plugins}"] if arguments[0] == "init" else []
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    command = [program, *arguments, *more]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def aws(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Aws]:
    """All of it, or the resources named by the test's parameter and what they stand on."""
    require_module("s3fs")
    require_module("moto")
    terraform_program()
    port, log, folder = free_port(), tmp_path / "moto.log", tmp_path / "terraform"
    # Until it is told otherwise, moto asks nobody for rights.
    server = start([sys.executable, "-m", "moto.server", "-p", port], log, {"INITIAL_NO_AUTH_ACTION_COUNT": str(10**9)})
    try:
        wait_for_port(port, server, log)
        aws = Aws(f"http://127.0.0.1:{port}")
        shutil.copytree(ROOT / "infra/aws/terraform", folder)
        (folder / "provider_override.tf").write_text(PROVIDER.format(aws.endpoint))
        aws.client("s3").create_bucket(Bucket="videos")
        terraform(folder, "init", "-no-color")
        made = [f"-target={name}" for name in getattr(request, "param", [])]
        names = ["-var=bucket=datasets", "-var=input_bucket=videos"]
        terraform(folder, "apply", "-no-color", "-auto-approve", *names, *made)
        yield aws
    finally:
        end(server)


@pytest.fixture
def as_role(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """From then on this process has a role's credentials, moto asks for rights, and calls are noted."""
    import aiobotocore.client
    import s3fs

    real = aiobotocore.client.AioBaseClient._make_api_call

    async def noted(client: Any, operation: str, parameters: Any) -> Any:
        aws.seen.add((parameters.get("Bucket"), ACTIONS.get(operation, operation)))
        return await real(client, operation, parameters)

    def ask_for_rights(yes: bool) -> None:
        unasked = b"0" if yes else str(10**9).encode()
        kind = {"Content-Type": "text/plain"}  # a form's body would not reach it
        requests.post(f"{aws.endpoint}/moto-api/reset-auth", unasked, headers=kind, timeout=10).raise_for_status()

    def take(role: str) -> None:
        ask_for_rights(False)
        arn = aws.client("iam").get_role(RoleName=f"datasets-{role}")["Role"]["Arn"]
        given = aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", given["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"])
        monkeypatch.setenv("AWS_SESSION_TOKEN", given["SessionToken"])
        s3fs.S3FileSystem.clear_instance_cache()  # clients have the credentials that they began with
        aws.allowed, aws.seen = aws.policy(role), set()
        ask_for_rights(True)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", noted)
    yield take
    ask_for_rights(False)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_the_bucket_is_as_the_page_says(aws: Aws) -> None:
    s3 = aws.client("s3")
    assert s3.get_bucket_versioning(Bucket="datasets")["Status"] == "Enabled"
    public = s3.get_public_access_block(Bucket="datasets")["PublicAccessBlockConfiguration"]
    assert set(public.values()) == {True}
    (rule,) = s3.get_bucket_encryption(Bucket="datasets")["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = s3.get_bucket_lifecycle_configuration(Bucket="datasets")["Rules"]
    assert {rule["ID"]: rule["Status"] for rule in rules} == {
        "old-versions-go": "Enabled",
        "unfinished-uploads-go": "Enabled",
    }
    (statement,) = json.loads(s3.get_bucket_policy(Bucket="datasets")["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


@pytest.fixture
def job_file(aws: Aws, tmp_path: Path) -> Path:
    """A job from the one bucket into the other."""
    pack_small_shards(tmp_path / "shards")
    client = aws.client("s3")
    for path in (tmp_path / "shards").iterdir():
        client.upload_file(str(path), "videos", f"shards/{path.name}")
    side = {"endpoint_url": aws.endpoint, "retry_seconds": 1}
    changes = {
        "input": {"shards": "s3://videos/shards/"},
        "output": "s3://datasets/tokens",
        "clips": {"fps": None, "size": 16},
        "storage": {"input": side, "output": side},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(merge(SMALL_JOB, changes)))
    return path


# Not the bucket's lifecycle, for which Terraform waits a minute; nor its policy, which denies plain HTTP: moto's.
@pytest.mark.parametrize("aws", [["aws_iam_role_policy.datasets"]], indirect=True, ids=["roles"])
def test_the_roles_name_exactly_the_calls_that_are_made(
    aws: Aws, as_role: Callable[[str], None], job_file: Path, tmp_path: Path, vidtok: Cli
) -> None:
    root, side = "s3://datasets/tokens", ("--endpoint-url", aws.endpoint)

    def runs(*command: object, code: int = 0) -> None:
        done = vidtok(*command)
        assert done.code == code, (command, done.out, done.err)

    as_role("writer")
    runs("plan", job_file)
    runs("tokenize", job_file)
    runs("tokenize", job_file)
    runs("retry-rejects", job_file, "--class", "unreadable")
    runs("remove", root, "--key", "v1", *side)
    runs("split", root, "--validation", "0.5", *side)
    runs("merge", "s3://datasets/merged", root, *side)
    runs("stats", root, *side)
    runs("report", root, *side)
    runs("export", "webdataset", root, "s3://datasets/tars", *side)
    runs("gc", root, "--rewrite", "--remove", *side)
    runs("verify", root, "--deep", "--source", *side)
    assert aws.seen == aws.allowed

    as_role("reader")
    runs("verify", root, "--deep", *side)
    runs("status", root, *side)
    runs("inspect", root, *side)
    assert aws.seen == aws.allowed
    refused = vidtok("tokenize", job_file, "--append")
    assert refused.code == 2 and "AccessDenied" in refused.err.replace(" ", ""), refused.err
