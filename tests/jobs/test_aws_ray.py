"""`ray up` of infra/aws on moto: Ray calls what the head's role allows there, and on a laptop what the page lists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.jobs.aws import Aws, listed, made_on_moto
from tests.support import ROOT

CLUSTER = ROOT / "infra/aws/ray_cluster.yaml"
PAGE = ROOT / "infra/aws/README.md"


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """With its instance profiles, and with all calls to EC2 going there and noted as actions."""
    import botocore.client

    real = botocore.client.BaseClient._make_api_call
    with made_on_moto(
        tmp_path, "-target=aws_iam_role_policy.datasets", "-target=aws_iam_instance_profile.datasets"
    ) as aws:

        def noted(client: Any, operation: str, parameters: Any) -> Any:
            if client.meta.service_model.service_name == "ec2":
                aws.seen.add(("ec2", f"ec2:{operation}"))
            return real(client, operation, parameters)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", noted)
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", aws.endpoint)
        monkeypatch.setenv("HOME", str(tmp_path))  # Ray puts a key for SSH there
        yield aws


def live(aws: Aws, provider: Any, config: dict[str, Any], kind: str) -> str:
    """A machine's life, as Ray's provider leads it: started, found, tagged, ended. Gives its instance profile."""
    node = "head" if kind == config["head_node_type"] else "worker"
    tags = {
        "ray-node-type": node,
        "ray-node-status": "uninitialized",
        "ray-user-node-type": kind,
        "ray-node-name": kind,
    }
    provider.create_node(config["available_node_types"][kind]["node_config"], tags, 1)
    (machine,) = provider.non_terminated_nodes({"ray-user-node-type": kind})
    provider.set_node_tags(machine, {"ray-node-status": "up-to-date"})
    assert provider.internal_ip(machine) and provider.is_running(machine)
    (found,) = aws.client("ec2").describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"]
    assert {"Key": "ray-cluster-name", "Value": config["cluster_name"]} in found["Tags"]
    provider.terminate_nodes([machine])
    assert provider.non_terminated_nodes({"ray-user-node-type": kind}) == []
    return str(found["IamInstanceProfile"]["Arn"]).split("/")[-1]


@pytest.mark.slow
def test_ray_calls_what_the_heads_role_and_the_page_name(aws: Aws) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(yaml.safe_load(CLUSTER.read_text().replace("BUCKET", "datasets")))
    config = AWSNodeProvider.bootstrap_config(AWSNodeProvider.fillout_available_node_types_resources(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    assert live(aws, provider, config, "head") == "datasets-head"
    (on_laptop,) = re.findall(r"`ray up` and `ray down` make\s(.*?);", PAGE.read_text(), re.DOTALL)
    assert set(re.findall(r"`(ec2:\w+)`", on_laptop)) == {action for _, action in aws.seen}

    # Ray on the head reads the file as `ray up` completed it.
    aws.seen.clear()
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    assert live(aws, provider, config, "gpu") == "datasets-writer"
    statements = aws.statements("head", "ec2")
    assert {action for each in statements for action in listed(each["Action"])} == {action for _, action in aws.seen}

    machines = "arn:aws:ec2:*:*:instance/*"
    named = {"ray-cluster-name": config["cluster_name"]}
    limits = [
        (each["Sid"], each.get("Resource"), each.get("NotResource"), each.get("Condition")) for each in statements
    ]
    started, of_cluster = (
        {f"aws:{kind}Tag/{tag}": name for tag, name in named.items()} for kind in ("Request", "Resource")
    )
    assert limits == [
        ("SeeMachines", "*", None, None),
        ("StartMachines", machines, None, {"StringEquals": started}),
        ("StartThemFromAnything", None, machines, None),
        ("TagMachinesAsTheyStart", machines, None, {"StringEquals": {"ec2:CreateAction": "RunInstances"}}),
        ("TagAndEndMachines", machines, None, {"StringEquals": of_cluster}),
    ]
