"""What stands in infra/, by the strongest means that need neither a cloud nor a cluster."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT, require, require_module

INFRA = ROOT / "infra"


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def pod_templates(value: Any) -> list[Any]:
    """All that stands under `template`, however deep."""
    if isinstance(value, list):
        return [found for inner in value for found in pod_templates(inner)]
    if not isinstance(value, dict):
        return []
    here = [value["template"]] if "template" in value else []
    return here + [found for name, inner in value.items() if name != "template" for found in pod_templates(inner)]


@pytest.mark.parametrize("path", sorted((INFRA / "containers").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_a_container_file_is_clean(path):
    linter = shutil.which("hadolint", path=str(Path(shutil.sys.executable).parent)) or shutil.which("hadolint")
    require("hadolint", linter is not None, "no hadolint")
    done = subprocess.run([str(linter), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
