"""What stands in infra/, by the strongest means that need neither a cloud nor a cluster."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT, require, require_module

INFRA = ROOT / "infra"
KUBERNETES = sorted((INFRA / "kubernetes").glob("*.yaml"))
# Fields of KubeRay 1.1 that we use (ray.io/v1, its API reference), so that a misspelt one is found.
RAY_JOB = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = HEAD_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def clusters() -> Iterator[Any]:
    for document in (document for path in KUBERNETES for document in documents(path)):
        if document["kind"] == "RayCluster":
            yield document["spec"]
        if document["kind"] == "RayJob":
            assert document["spec"].keys() <= RAY_JOB
            yield document["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_objects_fit_their_schemas(path):
    validator = require_module("kubernetes_validate")
    for document in documents(path):
        if "ray.io" not in document["apiVersion"]:
            validator.validate(document, "1.30", strict=True)


def test_pods_of_ray_fit_the_schema_of_pods():
    validator = require_module("kubernetes_validate")
    found = list(clusters())
    assert len(found) == 2
    for cluster in found:
        assert cluster.keys() <= RAY_CLUSTER and cluster["headGroupSpec"].keys() <= HEAD_GROUP
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group.keys() <= WORKER_GROUP
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
            validator.validate(pod, "1.30", strict=True)
            assert pod["spec"]["securityContext"]["runAsNonRoot"]


def test_pods_mount_what_is_made_for_them():
    """Names in one file that another one defines."""
    made = {
        (document["kind"], document["metadata"]["name"]) for document in documents(INFRA / "kubernetes/common.yaml")
    }
    for cluster in clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            wanted = {("ServiceAccount", spec["serviceAccountName"])}
            for volume in spec["volumes"]:
                wanted |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
                if "persistentVolumeClaim" in volume:
                    wanted |= {("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])}
            for container in spec["containers"]:
                wanted |= {("Secret", source["secretRef"]["name"]) for source in container["envFrom"]}
                mounted = {mount["name"] for mount in container["volumeMounts"]}
                assert mounted == {volume["name"] for volume in spec["volumes"]}
            assert wanted <= made


@pytest.mark.parametrize("path", sorted((INFRA / "containers").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_container_files_are_clean(path):
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    linter = shutil.which("hadolint", path=places)
    require("hadolint", linter is not None, "no hadolint")
    done = subprocess.run([str(linter), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_ray_cluster_of_aws_fits_rays_schema(tmp_path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = (INFRA / "aws/ray_cluster.yaml").read_text()
    validate_config(prepare_config(yaml.safe_load(written)))
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


def test_scripts_of_slurm_are_bash():
    scripts = sorted((INFRA / "slurm").glob("*.sbatch"))
    assert len(scripts) == 2
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
        # Slurm reads its lines up to the first command.
        assert not re.search(r"^[^#\n].*\n(.*\n)*#SBATCH", path.read_text(), re.MULTILINE)
