"""The scripts for Slurm, with stand-ins for its commands: what they do at each end, and when they are asked to stop."""

import contextlib
import os
import re
import signal
import subprocess

import pytest

from tests.support import ROOT

SCRIPTS = ROOT / "infra" / "slurm"


def test_scripts_are_bash():
    scripts = sorted(SCRIPTS.glob("*.sbatch"))
    assert len(scripts) == 2
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
        # Slurm reads its lines up to the first command.
        assert not re.search(r"^[^#\n].*\n(.*\n)*#SBATCH", path.read_text(), re.MULTILINE)


# A cluster's commands for its scripts; where one is queued again, Slurm asks it to stop once more.
STAND_INS = {
    "vidtok": "{said}",
    "scontrol": """case "$1 $2" in
"show hostnames") echo localhost ;;
"show node") echo NodeAddr=127.0.0.1 ;;
requeue*) echo "$2" >>requeued; kill -TERM $PPID ;;
esac""",
    "srun": "exec sleep 60",
    "ray": "exit 0",
}
ASKED = "trap 'exit {code}' TERM; kill -TERM $PPID; while true; do sleep 0.05; done"


@pytest.mark.parametrize("script", ["array", "ray_job"])
@pytest.mark.parametrize(
    ("said", "code", "requeued"),
    [
        pytest.param(ASKED.format(code=143), 143, True, id="stopped"),
        pytest.param(ASKED.format(code=1), 1, True, id="failed since its cluster was stopped"),
        pytest.param(ASKED.format(code=0), 0, False, id="ended all the same"),
        pytest.param("trap '' TERM; kill -TERM $PPID; exit 0", 0, False, id="ended as it was asked"),
        pytest.param("exit 1", 1, False, id="failed"),
        pytest.param("exit 143", 143, True, id="stopped alone"),
    ],
)
def test_what_is_queued_again(script, said, code, requeued, tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "activate").write_text(f"PATH={bin_folder}:$PATH")
    for name, lines in STAND_INS.items():
        (bin_folder / name).write_text("#!/usr/bin/env bash\n" + lines.replace("{said}", said))
        (bin_folder / name).chmod(0o755)
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    environment = {**os.environ, **task, "SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "n", "VIDTOK_VENV": str(tmp_path)}
    command = ["bash", str(SCRIPTS / f"{script}.sbatch"), "job.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        assert process.wait(timeout=60) == code
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what stands in for Ray's daemons
        process.wait()
    calls = tmp_path / "requeued"
    assert (calls.read_text().split() if calls.exists() else []) == ["7_2" if script == "array" else "9"] * requeued
