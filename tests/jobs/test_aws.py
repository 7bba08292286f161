"""Terraform makes infra/aws on moto; its roles suffice for what a dataset goes through, and allow nothing beside it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.integration.places import pack_small_shards
from tests.jobs.aws import Aws, listed, made_on_moto
from tests.jobs.conftest import Cli
from tests.jobs_for_tests import SMALL_JOB, merge

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
# Not the bucket's lifecycle, for which Terraform waits a minute; nor its policy, which denies plain HTTP: moto's.
ROLES = "-target=aws_iam_role_policy.datasets"


@pytest.fixture
def aws(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Aws]:
    """By `terraform apply` with the test's parameter as further arguments."""
    with made_on_moto(tmp_path, *getattr(request, "param", [])) as aws:
        yield aws


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
        given = aws.client("sts").assume_role(RoleArn=aws.role(role)["Arn"], RoleSessionName="test")["Credentials"]
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


KEY, INPUT_KEY = (f"arn:aws:kms:us-east-1:123456789012:key/{name}" for name in ("datasets", "videos"))
TRUSTED = "arn:aws:iam::123456789012:role/trainers"
ISSUER = "oidc.eks.us-east-1.amazonaws.com/id/ABC"
OIDC = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"
ALL_GIVEN = [
    f"-var=kms_key_arn={KEY}",
    f"-var=input_kms_key_arn={INPUT_KEY}",
    f"-var=trusted_arns={json.dumps([TRUSTED])}",
    f"-var=oidc_provider_arn={OIDC}",
    "-var=service_account=videos:tokenizer",
]
ENCRYPTION = "-target=aws_s3_bucket_server_side_encryption_configuration.datasets"


@pytest.mark.slow
@pytest.mark.parametrize("aws", [[ROLES, ENCRYPTION, *ALL_GIVEN]], indirect=True, ids=["all-given"])
def test_keys_and_those_who_take_the_roles_are_as_they_were_given(aws: Aws) -> None:
    (rule,) = aws.client("s3").get_bucket_encryption(Bucket="datasets")["ServerSideEncryptionConfiguration"]["Rules"]
    default = rule["ApplyServerSideEncryptionByDefault"]
    assert (default["SSEAlgorithm"], default["KMSMasterKeyID"], rule["BucketKeyEnabled"]) == ("aws:kms", KEY, True)

    def keys(role: str) -> set[tuple[str, str]]:
        statements = aws.statements(role, "kms")
        return {(statement["Resource"], action) for statement in statements for action in listed(statement["Action"])}

    assert keys("reader") == {(KEY, "kms:Decrypt")}
    assert keys("writer") == {(KEY, "kms:Decrypt"), (KEY, "kms:GenerateDataKey"), (INPUT_KEY, "kms:Decrypt")}
    assert keys("head") == keys("writer")

    def trust(role: str) -> list[tuple[str, Any, Any]]:
        statements = aws.role(role)["AssumeRolePolicyDocument"]["Statement"]
        return [(each["Action"], each["Principal"], each.get("Condition")) for each in statements]

    machines = ("sts:AssumeRole", {"Service": "ec2.amazonaws.com"}, None)
    pod = {f"{ISSUER}:sub": "system:serviceaccount:videos:tokenizer", f"{ISSUER}:aud": "sts.amazonaws.com"}
    assert trust("head") == [machines]
    assert trust("reader") == trust("writer")
    assert trust("writer") == [
        machines,
        ("sts:AssumeRole", {"AWS": TRUSTED}, None),
        ("sts:AssumeRoleWithWebIdentity", {"Federated": OIDC}, {"StringEquals": pod}),
    ]


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


@pytest.mark.parametrize("aws", [[ROLES]], indirect=True, ids=["roles"])
def test_the_roles_name_exactly_the_calls_that_are_made(
    aws: Aws, as_role: Callable[[str], None], job_file: Path, tmp_path: Path, vidtok: Cli
) -> None:
    root, side = "s3://datasets/tokens", ("--endpoint-url", aws.endpoint)
    assert aws.policy("head") == aws.policy("writer")
    (gives,) = aws.statements("head", "iam")
    assert (gives["Action"], gives["Resource"]) == ("iam:PassRole", aws.role("writer")["Arn"])
    assert gives["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}

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
