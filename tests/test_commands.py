"""What the README and the guides tell people to type is typed, in order, in a fresh folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

GUIDES = ROOT / "infra/docs/pages"
# What stands in one line is done in one folder, one page behind the other.
PAGES = {
    "readme": [ROOT / "README.md"],
    "operations": [GUIDES / "operations.md"],
    "guides": [GUIDES / f"{name}.md" for name in ("index", "inputs", "format", "training")],
}
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What `... || echo "exit code $?"` prints there: a job is killed, and stopped; a shard fails; no video is left to try;
# the budget ends a job; a part is damaged; the plan is another one.
FAILURES = {"operations": [137, 143, 1, 2, 1, 1, 2]}
# A line that begins so is a command, wherever it stands.
_COMMANDS = re.compile(r"^\s*\$? ?(vidtok|make|pip|python3?|ray|sbatch|docker|terraform) ", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git knows of, as somebody has it who cloned it."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/golden"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    # The environment that `make` would make there is this process's; see `run`.
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    return folder


def run(command: list[str], checkout: Path) -> str:
    """Runs it as in a new environment: what it installs goes into a folder of its own, and is found there first.

    Returns all that it printed.
    """
    (checkout / ".installed").touch()  # newer than what `make` holds it against
    site = checkout / "build/site-packages"
    environment = {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "MAKEFLAGS": f"VENV={sys.prefix} INSTALLED={checkout}/.installed",
        "ARGS": "",  # not those of the `make test` that runs this
        # All that it depends on is there.
        **{"PIP_TARGET": str(site), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"},
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    log = checkout.parent / "log"
    with log.open("w") as output:
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=output, stderr=output, check=False)
    assert done.returncode == 0, log.read_text()[-4000:]
    return log.read_text()


@pytest.mark.parametrize(
    "name", ["readme", "operations", pytest.param("guides", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_what_is_shown_works_as_it_stands(name: str, checkout: Path) -> None:
    script = checkout.parent / "commands.sh"
    commands = [command for page in PAGES[name] for command in blocks(page, "sh")]
    assert commands
    script.write_text("set -euxo pipefail\n" + "".join(commands))
    said = run(["bash", str(script)], checkout)
    assert [int(code) for code in re.findall(r"^exit code (\d+)$", said, re.MULTILINE)] == FAILURES.get(name, [])
    for page in PAGES[name]:
        program = checkout.parent / f"{page.stem}.py"
        program.write_text("".join(blocks(page, "python")))
        run([sys.executable, str(program)], checkout)


@pytest.mark.parametrize("page", [page for pages in PAGES.values() for page in pages], ids=lambda page: page.name)
def test_no_command_stands_outside_of_what_is_run(page: Path) -> None:
    text = page.read_text()
    assert not _COMMANDS.findall(re.sub(r"^```sh\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    assert {language for language, _ in _BLOCK.findall(text)} <= {"sh", "python", "yaml", "json", "text"}
