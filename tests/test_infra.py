"""What stands in infra/, by the strongest means that need neither a cloud nor a cluster."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from pipeline.job_file import parse_job
from tests.support import ROOT, require, require_module

INFRA = ROOT / "infra"
TERRAFORM_VARIABLES = INFRA / "aws/terraform/variables.tf"
KUBERNETES = sorted((INFRA / "kubernetes").glob("*.yaml"))
DOCKERFILES = sorted((INFRA / "containers").glob("*.Dockerfile"))
# Fields of KubeRay 1.4 that we use (ray.io/v1, its API reference), so that a misspelt one is found.
RAY_JOB = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
RAY_JOB |= {"submitterPodTemplate"}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
AUTOSCALER = {"idleTimeoutSeconds", "securityContext"}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = HEAD_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def of_kind(kind: str) -> Iterator[Any]:
    for document in (document for path in KUBERNETES for document in documents(path)):
        if document["kind"] == kind:
            yield document["spec"]


def clusters() -> list[Any]:
    return [*of_kind("RayCluster"), *(job["rayClusterSpec"] for job in of_kind("RayJob"))]


def groups() -> Iterator[Any]:
    for cluster in clusters():
        yield from (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])


def pods() -> Iterator[Any]:
    """All pods that KubeRay makes of these files, each head with the autoscaler that it adds."""
    for job in of_kind("RayJob"):
        yield job["submitterPodTemplate"]["spec"]
    for cluster in clusters():
        options = cluster["autoscalerOptions"]
        autoscaler = {"name": "autoscaler", "image": "image", "securityContext": options["securityContext"]}
        head = cluster["headGroupSpec"]["template"]["spec"]
        yield {**head, "containers": [*head["containers"], autoscaler]}
        yield from (group["template"]["spec"] for group in cluster["workerGroupSpecs"])


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_objects_fit_their_schemas(path):
    validator = require_module("kubernetes_validate")
    for document in documents(path):
        if "ray.io" not in document["apiVersion"]:
            validator.validate(document, "1.30", strict=True)


def test_fields_of_kuberay():
    assert len(clusters()) == 2
    assert all(job.keys() <= RAY_JOB for job in of_kind("RayJob"))
    for cluster in clusters():
        assert cluster.keys() <= RAY_CLUSTER and cluster["autoscalerOptions"].keys() <= AUTOSCALER
        assert cluster["headGroupSpec"].keys() <= HEAD_GROUP
    for group in groups():
        assert group.keys() <= WORKER_GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_pods_fit_the_schema_of_pods():
    validator = require_module("kubernetes_validate")
    for spec in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        validator.validate(pod, "1.30", strict=True)


def test_restricted_namespaces_take_the_pods():
    """What the Pod Security Standard `restricted` asks of pods and containers that we could miss."""
    assert len(list(pods())) == 5
    for spec in pods():
        for container in spec["containers"]:
            context = {**spec["securityContext"], **container["securityContext"]}
            assert context["runAsNonRoot"] is True and context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}


def test_the_job_of_the_config_map():
    (written,) = (found["data"] for found in documents(INFRA / "kubernetes/common.yaml") if "data" in found)
    executor = parse_job(yaml.safe_load(written["job.yaml"])).executor
    assert executor.max_attempts > type(executor).model_fields["max_attempts"].default  # which evictions cost


def test_pods_mount_what_is_made_for_them():
    """Names in one file that another one defines, or that the page says how to make."""
    made = {
        (document["kind"], document["metadata"]["name"]) for document in documents(INFRA / "kubernetes/common.yaml")
    }
    page = (INFRA / "kubernetes/README.md").read_text()
    for spec in (group["template"]["spec"] for group in groups()):
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for volume in spec["volumes"]:
            wanted |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            if "persistentVolumeClaim" in volume:
                wanted |= {("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])}
        for container in spec["containers"]:
            for secret in (source["secretRef"] for source in container["envFrom"]):
                assert f"kubectl create secret generic {secret['name']} " in page
                wanted |= set() if secret.get("optional") else {("Secret", secret["name"])}
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}
        assert wanted <= made


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_container_files_are_clean(path):
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    linter = shutil.which("hadolint", path=places)
    require("hadolint", linter is not None, "no hadolint")
    done = subprocess.run([str(linter), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def copied(path: Path) -> list[str]:
    """What a Dockerfile takes from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()]


def arguments(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(.*)$", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_have_all_that_the_wheel_is_made_of(path, tmp_path):
    require_module("hatchling")
    (tmp_path / "source").mkdir()
    for source in copied(path):
        target = tmp_path / "source" / Path(source).name
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tmp_path / "source"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert any(name.endswith("/licenses/LICENSE") for name in about)
    folders = [ROOT / name for name in ("vidtok_model", "pipeline", "jobs")]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    assert names - about == {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_builders_are_sent_what_is_copied_alone(path):
    lines = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    first, *others = [line for line in lines if not line.startswith("#")]
    assert (first, others) == ("*", [*(f"!{source}" for source in copied(path)), "**/__pycache__"])


def test_images_hold_what_the_tests_ran_with():
    pinned = re.findall(r"^([\w-]+)==[\w.]+$", (INFRA / "containers/versions.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for path in DOCKERFILES:
        (extras,) = re.findall(r"'\.\[(.*)\]'", path.read_text())
        of_extras = [line for extra in extras.split(",") for line in project["optional-dependencies"][extra]]
        wanted = {Requirement(line).name for line in [*project["dependencies"], *of_extras]}
        assert sorted(pinned) == sorted(wanted - {"ray", "torch"})
        assert {cluster["rayVersion"] for cluster in clusters()} == {arguments(path)["RAY"]}
        assert f"torch=={arguments(path)['TORCH']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_ray_cluster_of_aws_fits_rays_schema(tmp_path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = (INFRA / "aws/ray_cluster.yaml").read_text()
    config = prepare_config(yaml.safe_load(written))
    validate_config(config)
    (wheel,) = config["file_mounts"]
    assert f"file://{wheel}'" in config["setup_commands"][-1]
    # The head alone calls EC2, on machines of the name that its role knows.
    assert "boto3" in config["head_setup_commands"][-1] and "boto3" not in str(config["worker_setup_commands"])
    variable = re.search(r'"ray_cluster_name" {.*?default += "(.*?)"', TERRAFORM_VARIABLES.read_text(), re.DOTALL)
    assert variable is not None and config["cluster_name"] == variable[1]
    profiles = {
        kind: each["node_config"]["IamInstanceProfile"] for kind, each in config["available_node_types"].items()
    }
    assert profiles == {"head": {"Name": "BUCKET-head"}, "gpu": {"Name": "BUCKET-writer"}}
    with pytest.raises(Exception, match="upscaling_spede"):
        validate_config(prepare_config(yaml.safe_load(written.replace("upscaling_speed", "upscaling_spede"))))


def test_terraform_is_valid(tmp_path):
    program = shutil.which("terraform")
    plugins = next(iter(Path("/opt").glob("tf-plugins")), None)
    require("terraform", program is not None and plugins is not None, "no terraform, or no provider at hand")
    shutil.copytree(INFRA / "aws/terraform", tmp_path / "terraform")
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}

    def terraform(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments]
        return subprocess.run(
            command, cwd=tmp_path / "terraform", env=environment, capture_output=True, text=True, check=False
        )

    assert terraform("fmt", "-check", "-diff").stdout == ""
    begun = terraform("init", f"-plugin-dir={plugins}", "-no-color")
    assert begun.returncode == 0, begun.stderr
    valid = terraform("validate", "-no-color")
    assert valid.returncode == 0, valid.stderr


def test_names_that_aws_would_refuse_late_are_refused_at_once(tmp_path):
    program = shutil.which("terraform")
    require("terraform", program is not None, "no terraform")
    shutil.copy(TERRAFORM_VARIABLES, tmp_path)  # alone, so that no provider is asked

    def refused(**given: str) -> set[str]:
        names = {"bucket": "a" * 57, "input_bucket": "videos", **given}
        command = [str(program), "plan", "-no-color", *(f"-var={name}={value}" for name, value in names.items())]
        environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        found = set(re.findall(r"var\.(\w+) is", done.stderr))
        assert done.returncode == bool(found), done.stderr
        return found

    assert refused() == set()
    assert refused(oidc_provider_arn="arn:aws:iam::1:oidc-provider/host/id/A", service_account="videos:vidtok") == set()
    assert refused(oidc_provider_arn="https://host/id/A", service_account="vidtok") == {
        "oidc_provider_arn",
        "service_account",
    }
    for bucket in ("a" * 58, "ab", "a..b", "Datasets", "data_sets", "-datasets"):
        assert refused(bucket=bucket) == {"bucket"}, bucket
