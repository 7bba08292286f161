"""What Terraform makes of infra/aws, on moto, and what its roles may."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from tests.servers.process import end, free_port, start, wait_for_port
from tests.support import ROOT, require, require_module

__all__ = ["Aws", "listed", "made_on_moto"]

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
    folder: Path
    allowed: set[tuple[str, str]] = field(default_factory=set)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def client(self, service: str, **credentials: str) -> Any:
        return boto3.client(service, endpoint_url=self.endpoint, **credentials)

    def terraform(self, *arguments: str) -> None:
        environment = {
            **os.environ,
            "TF_CLI_CONFIG_FILE": os.devnull,
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }
        command = [terraform_program()[0], *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def role(self, role: str) -> Any:
        return self.client("iam").get_role(RoleName=f"datasets-{role}")["Role"]

    def statements(self, role: str, service: str) -> list[dict[str, Any]]:
        """Those of its policy on one service."""
        document = self.client("iam").get_role_policy(RoleName=f"datasets-{role}", PolicyName=role)["PolicyDocument"]
        statements: list[dict[str, Any]] = document["Statement"]
        assert {statement["Effect"] for statement in statements} == {"Allow"}
        services = [{action.split(":")[0] for action in listed(statement["Action"])} for statement in statements]
        assert all(len(those) == 1 for those in services)
        return [statement for statement, those in zip(statements, services, strict=True) if those == {service}]

    def policy(self, role: str) -> set[tuple[str, str]]:
        """(bucket, action) of all that it allows on S3: actions on a bucket name it, those on its objects add /*."""
        allowed = set()
        for statement in self.statements(role, "s3"):
            for resource in listed(statement["Resource"]):
                on_objects = resource.endswith("/*")
                for action in listed(statement["Action"]):
                    assert on_objects == (action != "s3:ListBucket"), (action, resource)
                    allowed.add((resource.removeprefix("arn:aws:s3:::").removesuffix("/*"), action))
        return allowed


def listed(value: str | list[str]) -> list[str]:
    """A policy writes a list of one as what it holds."""
    return [value] if isinstance(value, str) else value


def terraform_program() -> tuple[str, Path]:
    program, plugins = shutil.which("terraform"), Path(os.environ.get("TF_PLUGINS", "/opt/tf-plugins"))
    require("terraform", program is not None and plugins.is_dir(), f"no terraform, or no providers in {plugins}")
    return str(program), plugins


@contextmanager
def made_on_moto(tmp_path: Path, *arguments: str) -> Iterator[Aws]:
    """The bucket `datasets` beside one of `videos`, by `terraform apply` with these arguments too."""
    require_module("s3fs")
    require_module("moto")
    _, plugins = terraform_program()
    port, log, folder = free_port(), tmp_path / "moto.log", tmp_path / "terraform"
    # Until it is told otherwise, moto asks nobody for rights.
    server = start([sys.executable, "-m", "moto.server", "-p", port], log, {"INITIAL_NO_AUTH_ACTION_COUNT": str(10**9)})
    try:
        wait_for_port(port, server, log)
        aws = Aws(f"http://127.0.0.1:{port}", folder)
        shutil.copytree(ROOT / "infra/aws/terraform", folder)
        (folder / "provider_override.tf").write_text(PROVIDER.format(aws.endpoint))
        aws.client("s3").create_bucket(Bucket="videos")
        aws.terraform("init", "-no-color", f"-plugin-dir={plugins}")
        names = ["-var=bucket=datasets", "-var=input_bucket=videos"]
        aws.terraform("apply", "-no-color", "-auto-approve", *names, *arguments)
        yield aws
    finally:
        end(server)
