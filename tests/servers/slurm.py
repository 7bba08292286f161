"""A Slurm of virtual nodes on this machine, as root: its own daemons, in a few seconds."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.servers.process import end, free_port, start, wait_for_port

__all__ = ["PROGRAMS", "Slurm", "missing_programs"]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
_END_SECONDS = 30
_SETTINGS = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
PreemptType=preempt/partition_prio
SlurmctldParameters=preempt_send_user_signal
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""
_NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000\n"


class Slurm:
    """A controller and some nodes, all of which are this machine; jobs of partition high preempt those of low."""

    def __init__(self, folder: Path, *, nodes: int = 2, cpus: int = 2) -> None:
        """Starts it with its files in a folder of its own."""
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        # Nodes that are one machine share its ports, and so do other clusters on it. A short path, since sockets are
        # below it, and not Ray's own, where others look for a cluster to join.
        self._ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        ports = "--min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0"
        self.for_ray = {"RAY_PORT": str(free_port()), "RAY_OPTIONS": ports, "RAY_TMPDIR": self._ray_folder}
        try:
            self._start([f"n{number}" for number in range(1, nodes + 1)], cpus)
        except BaseException:
            self.stop()
            raise

    def _start(self, nodes: list[str], cpus: int) -> None:
        folder, port = self._folder, free_port()
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = {name: free_port() for name in nodes}
        lines = [_NODE.format(name=name, port=ports[name], cpus=cpus) for name in nodes]
        (folder / "slurm.conf").write_text(_SETTINGS.format(port=port, folder=folder) + "".join(lines))
        files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        places = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in files]
        self._daemon("munged", "--foreground", "--force", "--num-threads=1", *places)
        self._daemon("slurmctld", "-D", "-i", port=port)
        for name in nodes:
            self._daemon("slurmd", "-D", "-N", name, port=ports[name])

    def _daemon(self, *command: str, port: int | None = None) -> None:
        log = self._folder / f"{command[0]}.out"
        process = start(command, log, self.environment)
        self._processes.append(process)
        if port is not None:
            wait_for_port(port, process, log)

    def run(self, *command: object, check: bool = True, **environment: str) -> str:
        """A command of Slurm's; returns what it printed."""
        variables = {**os.environ, **self.environment, **environment}
        done = subprocess.run(
            [str(word) for word in command], env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def stop(self) -> None:
        """Ends all jobs that a failed test left, and all daemons."""
        with contextlib.suppress(AssertionError, OSError):  # it may not have come up
            self.run("scancel", "--full", "--signal=KILL", "--user=root")
            ends = time.monotonic() + _END_SECONDS
            while self.run("squeue", "--noheader").strip() and time.monotonic() < ends:
                time.sleep(0.2)
        for process in reversed(self._processes):
            end(process)
        shutil.rmtree(self._ray_folder, ignore_errors=True)


def missing_programs() -> list[str]:
    """What is not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]
