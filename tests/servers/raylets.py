"""A Ray cluster of several nodes on this machine, which come and go."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

from tests.servers.process import free_port

__all__ = ["QUICK_HEALTH_CHECKS", "RayCluster"]

# Ray gives a node up that does not answer for some seconds, instead of a minute.
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class RayCluster:
    """Stands while the block runs: ray.cluster_utils, in a process of its own, since it changes the one it is in."""

    def __init__(self, environment: Mapping[str, str], *, dashboard: bool = False) -> None:
        """`environment` is that of all nodes, and so of the workers on them, over this process's.

        With `dashboard`, the head has Ray's, which keeps in the file `discovery` where nodes export metrics.
        """
        # A short path, since sockets are below it. Not Ray's own folder, where others look for a cluster to join.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self.discovery = Path(self._folder, "ray", "prom_metrics_service_discovery.json")
        self._has_dashboard = dashboard
        variables = {**QUICK_HEALTH_CHECKS, **environment, "RAY_TMPDIR": self._folder}
        spawn = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, spawn, initializer=_prepare, initargs=(variables,))

    def __enter__(self) -> Self:
        """Starts the head, on which no worker has a place."""
        try:
            self.address = self._process.submit(_start_head, self._has_dashboard).result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.submit(_stop).result()
        self._process.shutdown()
        shutil.rmtree(self._folder)

    def add_node(self, *, num_gpus: int) -> str:
        """Starts a node and returns its id once it is there."""
        return self._process.submit(_add_node, num_gpus).result()

    def kill_node(self, node_id: str) -> None:
        """Kills a node's processes with SIGKILL."""
        self._process.submit(_kill_node, node_id).result()


# What runs in the cluster's process.
_cluster: Any = None


def _prepare(variables: Mapping[str, str]) -> None:
    os.environ.update(variables)


def _start_head(dashboard: bool) -> str:
    global _cluster
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": dashboard, "dashboard_port": free_port() if dashboard else None}
    _cluster = Cluster(initialize_head=True, head_node_args=head)
    return str(_cluster.address)


def _add_node(num_gpus: int) -> str:
    return str(_cluster.add_node(num_cpus=2, num_gpus=num_gpus).node_id)


def _kill_node(node_id: str) -> None:
    (node,) = (node for node in _cluster.worker_nodes if node.node_id == node_id)
    _cluster.remove_node(node, allow_graceful=False)


def _stop() -> None:
    if _cluster is not None:
        _cluster.shutdown()
