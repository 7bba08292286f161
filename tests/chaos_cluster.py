"""A Ray cluster of three nodes on this machine, and who in it may be killed."""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.process_tree import Process, below, memory_files, send_kill

__all__ = ["FORK_SERVER", "ChaosCluster", "Victim", "Victims"]

# In the command line of a fork server, and of the decoders that it forks.
FORK_SERVER = "from pipeline.decoding.forkserver import main"


class ChaosCluster:
    """A head without room for workers, so that it is never lost with one, and two nodes that may be."""

    def __init__(self, folder: Path) -> None:
        """Starts it; `folder` has a short path, since Ray puts sockets there."""
        # Beside the cluster of this machine, if there is one: nobody else's Ray finds this one by itself.
        os.environ["RAY_TMPDIR"] = str(folder)
        # Who loses it ends it, in `tests.process_tree`; no reaper of Ray's is needed.
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}, shutdown_at_exit=False
        )
        self.address = self._cluster.address
        self._nodes = [self._add(), self._add()]

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, num_gpus=2)

    def choose(self, dice: random.Random) -> Any:
        """A node that may be lost."""
        return dice.choice(self._nodes)

    @staticmethod
    def raylet(node: Any) -> int:
        """The process that all workers of a node are children of."""
        return int(node.all_processes["raylet"][0].process.pid)

    def replace(self, node: Any) -> None:
        """Kills a node, the raylet first, so that its workers find themselves alone; another one comes for it."""
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes[self._nodes.index(node)] = self._add()


@dataclass(frozen=True)
class Victim:
    """A process, and the worker that it works for, which may be itself."""

    process: Process
    worker: Process


class Victims:
    """The workers, fork servers and decoders below a process, and which of them may be killed."""

    def __init__(self, root: int, video_sizes: Iterable[int]) -> None:
        """`video_sizes` in bytes tell the memory with a video from that with its frames."""
        self._root = root
        self._video_sizes = frozenset(video_sizes)
        self._struck: set[int] = set()

    def all(self) -> list[Process]:
        """All there are."""
        everybody = below(self._root)
        return [process for process in everybody if _is_worker(process) or _is_forked(process)]

    def below(self, pid: int) -> list[Process]:
        """Those that work for a process, and must not outlive it."""
        return [process for process in below(pid) if _is_worker(process) or _is_forked(process)]

    def of(self, kind: str) -> list[Victim]:
        """Whom to kill, of a kind.

        By design a video that costs two decoders is a reject (`crash`), and the dataset another one. So a decoder must
        have a video that lost none yet (a second attempt is in a new decoder, which has that video or, for a moment,
        none), and the worker of a fork server, which takes all its decoders along, no video that lost one.

        A worker is at work, with a fork server; `starting`: any worker.
        """
        everybody = {process.pid: process for process in self.all()}
        workers = [process for process in everybody.values() if _is_worker(process)]
        servers = [
            Victim(process, everybody[process.parent])
            for process in everybody.values()
            if _is_forked(process) and process.parent in everybody and _is_worker(everybody[process.parent])
        ]
        if kind == "starting":
            return [Victim(worker, worker) for worker in workers]
        if kind == "worker":
            return [Victim(server.worker, server.worker) for server in servers]
        if kind == "forkserver":
            return [server for server in servers if not self._videos(server.worker) & self._struck]
        decoders = [Victim(child, server.worker) for server in servers for child in below(server.process.pid)]
        return [decoder for decoder in decoders if (has := self._videos(decoder.process)) and not has & self._struck]

    def kill(self, victim: Victim) -> bool:
        """False where it ended before."""
        if not send_kill(victim.process):
            return False
        # Afterwards, and all that the worker has: a decoder may have been given its next video at the last moment.
        self._struck |= self._videos(victim.worker)
        return True

    def _videos(self, process: Process) -> set[int]:
        return memory_files(process, self._video_sizes)


def _is_worker(process: Process) -> bool:
    return process.command.startswith("ray::ShardActor")


def _is_forked(process: Process) -> bool:
    """Whether it is a fork server, or a decoder, which is a copy of one."""
    return FORK_SERVER in process.command
