"""The wheel: what is in it, and that it works installed elsewhere and run from another folder."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT, require_module

PACKAGES = ("vidtok_model", "pipeline", "jobs")


def _run(*command: object, cwd: Path) -> str:
    """What the command prints. It sees nothing of the checkout: neither by folder nor by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}  # tables are not to be cut at a terminal's width
    words = [str(word) for word in command]
    run = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{words} exited with {run.returncode}:\n{run.stdout}\n{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_module("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a new venv with the wheel in it.

    Its dependencies are those of the venv that runs the tests, which saves minutes: a .pth file adds that venv's
    packages after its own. Python reads no .pth file in a folder added so: not the one that leads to this checkout.
    """
    venv = tmp_path_factory.mktemp("elsewhere") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=venv.parent)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def test_holds_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(re.fullmatch(r"jobs/configs/.+\.yaml", name) for name in names)


def test_carries_its_licence_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "vidtok = jobs.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_comes_from_the_wheel_and_not_from_the_checkout(elsewhere: Path, tmp_path: Path) -> None:
    code = f"import json, sys; print(json.dumps([sys.path, *(__import__(name).__file__ for name in {PACKAGES!r})]))"
    search_path, *files = json.loads(_run(elsewhere / "python", "-c", code, cwd=tmp_path))
    assert str(ROOT) not in search_path
    for package, file in zip(PACKAGES, files, strict=True):
        assert Path(file).is_relative_to(elsewhere.parent), f"{package} was imported from {file}"


def test_runs_from_another_folder(elsewhere: Path, tmp_path: Path) -> None:
    vidtok = elsewhere / "vidtok"
    assert "Usage" in _run(vidtok, "--help", cwd=tmp_path)
    models = set(re.findall(r"\bvidtok_(?:tiny_)?(?:kl|fsq)_\w+", _run(vidtok, "models", cwd=tmp_path)))
    assert len(models) == 25, sorted(models)
    assert json.loads(_run(vidtok, "config", "--schema", cwd=tmp_path))["properties"]


def test_the_small_models_come_along(elsewhere: Path, tmp_path: Path) -> None:
    code = (
        "from vidtok_model import CARRIED, carried_weights, load_tokenizer; import torch\n"
        "for name in CARRIED:\n"
        "    tokenizer = load_tokenizer(name)\n"
        "    encoded = tokenizer.encode(torch.zeros(1, 3, 17, 16, 16))\n"
        "    print(name, carried_weights(name), *tokenizer.decode(encoded.latents, 17).shape)"
    )
    lines = _run(elsewhere / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(lines) == 2
    for line in lines:
        _, path, *shape = line.split()
        assert Path(path).is_relative_to(elsewhere.parent) and shape == ["1", "3", "17", "16", "16"]


def test_every_import_is_a_declared_dependency() -> None:
    """The test above borrows a venv in which everything is installed, where a forgotten dependency goes unseen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra != "dev"]
    declared = {_normal(Requirement(line).name) for line in sum(extras, project["dependencies"])}
    distributions = packages_distributions()
    missing = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for module in _imports(file) - sys.stdlib_module_names - set(PACKAGES):
                if not declared & {_normal(name) for name in distributions.get(module, [module])}:
                    missing.setdefault(module, str(file.relative_to(ROOT)))
    assert not missing, f"imported, but not in pyproject.toml: {missing}"


def _imports(file: Path) -> set[str]:
    """The top-level modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
