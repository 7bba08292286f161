"""Prometheus scrapes a real job, and every series that dashboard and alerts name has the job's values; alerts fire."""

import json
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.dataset import Dataset
from pipeline.executors.ray_metrics import COUNTERS, GAUGES
from tests.integration.gate import Gate, job_command, until
from tests.integration.places import pack_small_shards
from tests.jobs_for_tests import job, store_of
from tests.servers.prometheus import MONITORING, PROGRAMS, Prometheus
from tests.servers.proxy import MisbehavingProxy
from tests.servers.raylets import RayCluster
from tests.support import ROOT, require

require("prometheus", all(PROGRAMS.values()), f"not all are there: {PROGRAMS}")

NUM_SHARDS = 3
# Behind the gate's hook: the first worker that begins a shard dies.
DIES = """
    begin = ShardLog.__init__

    def begin_or_die(log, *words, **options):
        begin(log, *words, **options)
        if (folder / "dies").exists():
            (folder / "dies").unlink()
            os.kill(os.getpid(), 9)

    ShardLog.__init__ = begin_or_die
"""


class Throttles(MisbehavingProxy):
    """Refuses every tenth request."""

    def _fault(self) -> str | None:
        if sum(self.requests.values()) % 10:
            return None
        self.faults["slow-down"] += 1
        return "slow-down"


def expressions() -> list[str]:
    """Of all panels."""
    dashboard = json.loads((MONITORING / "grafana_dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    for variable, value in (("$__rate_interval", "20s"), ("$dataset", ".*"), ("$run", ".*")):
        found = [expression.replace(variable, value) for expression in found]
    assert len(found) > 20 and "$" not in "".join(found)
    return found


def series() -> set[str]:
    """All that panels, variables and alerts name."""
    text = "".join((MONITORING / name).read_text() for name in ("grafana_dashboard.json", "alerts.yaml"))
    return set(re.findall(r"ray_vidtok_\w+", text))


def test_every_series_has_the_jobs_values(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in sorted(pack_small_shards(tmp_path / "in", NUM_SHARDS).iterdir()):
        client.upload_file(str(path), bucket, f"{tmp_path.name}/in/{path.name}")
    gate = Gate(tmp_path / "gate")
    with (tmp_path / "gate/sitecustomize.py").open("a") as hook:
        hook.write(DIES)
    (tmp_path / "gate/dies").touch()
    environment = {**gate.environment, "RAY_metrics_report_interval_ms": "1000"}
    with (
        Throttles(s3_endpoint) as proxy,
        RayCluster(environment, dashboard=True) as cluster,
        Prometheus(tmp_path / "prometheus", cluster.discovery) as prometheus,
    ):
        cluster.add_node(num_gpus=0)
        root, side = f"s3://{bucket}/{tmp_path.name}", {"endpoint_url": proxy.endpoint}
        executor = {"kind": "ray", "address": cluster.address, "cpus_per_worker": 1, "num_workers": 2}
        config = job(
            f"{root}/in",
            f"{root}/out",
            clips={"fps": None, "size": 16},
            storage={"input": side, "output": side},
            executor=executor,
        )
        began = time.time()
        driver = subprocess.Popen(job_command(config, tmp_path), env={**os.environ, **environment}, cwd=ROOT)
        try:
            until(lambda: len(gate.waiting()) == 2, "both workers wait at the gate")
            _while_it_runs(prometheus)
            gate.open()
            assert driver.wait(timeout=120) == 0
        finally:
            driver.kill()
            driver.wait()
        commits = list(Dataset.open(store_of(config)).commits())
        _when_it_has_ended(prometheus, commits, proxy)
        ended = time.time()
        for name in series():
            assert prometheus.since(name, began, ended), f"{name} has no value"
        for expression in expressions():
            assert prometheus.since(expression, began, ended), f"{expression} gives nothing"
        assert set(prometheus.rules().values()) == {"ok"}


def _while_it_runs(prometheus: Prometheus) -> None:
    def by(name: str, label: str) -> dict[str, float]:
        return {labels[label]: value for labels, value in prometheus.now(f"sum by ({label}) ({name})")}

    under_way = {"waiting": NUM_SHARDS - 2, "under_way": 2, "done": 0, "failed": 0}
    until(lambda: by("ray_vidtok_shards", "state") == under_way, "two shards are under way")
    working = {"starting": 0, "idle": 0, "working": 2, "parked": 0}
    until(lambda: by("ray_vidtok_workers", "state") == working, "two workers are at work")
    # What is encoded waits to be written.
    until(lambda: by("ray_vidtok_queue_bytes", "queue").get("encode-write", 0) > 0, "tokens stand in the last queue")
    assert by("ray_vidtok_queue_bytes", "queue").keys() == {"read-decode", "decode-encode", "encode-write"}
    assert prometheus.now("ray_vidtok_bytes_left")[0][1] > 0
    of_each = "sum by (run, dataset, WorkerId, NodeAddress) (ray_vidtok_clips_total)"
    workers = until(lambda: (found := prometheus.now(of_each)) and len(found) == 2 and found, "both have done clips")
    assert {labels["dataset"] for labels, _ in workers} == {"out"} and len(
        {labels["run"] for labels, _ in workers}
    ) == 1
    assert all(labels["WorkerId"] and labels["NodeAddress"] for labels, _ in workers)


def _when_it_has_ended(prometheus: Prometheus, commits: list[dict[str, Any]], proxy: Throttles) -> None:
    def total(name: str) -> float:
        found = prometheus.now(f"sum(last_over_time({name}[5m]))")
        return found[0][1] if found else 0

    done = 'ray_vidtok_shards{state="done"}'
    until(lambda: total(done) == NUM_SHARDS, "all shards are done")
    parts = [part for commit in commits for part in commit["parts"]]
    rejects = sum((Counter(commit["rejects_by_class"]) for commit in commits), Counter())
    wanted = {
        "ray_vidtok_clips_total": sum(commit["rows"] for commit in commits),
        "ray_vidtok_tokens_total": sum(commit["tokens"] for commit in commits),
        "ray_vidtok_videos_total": sum(commit["videos"] for commit in commits),
        "ray_vidtok_bytes_read_total": sum(commit["video_bytes"] for commit in commits),
        "ray_vidtok_bytes_written_total": sum(part["size_bytes"] for part in parts),
        'ray_vidtok_rejects_total{class="unreadable"}': rejects["unreadable"],
        'ray_vidtok_attempts_failed_total{error="WorkerDied"}': 1,
        "ray_vidtok_attempts_failed_total": 1,
        'ray_vidtok_workers_lost_total{why="died"}': 1,
        "ray_vidtok_workers_lost_total": 1,
        'ray_vidtok_shards{state!="done"}': 0,
        "ray_vidtok_bytes_left": 0,
    }
    assert rejects == {"unreadable": NUM_SHARDS} and len(commits) == NUM_SHARDS
    found: dict[str, float] = {}

    def agree() -> bool:
        found.update({name: total(name) for name in wanted})
        return found == wanted

    until(agree, f"{found}, expected {wanted}", seconds=30)
    assert 0 < total("ray_vidtok_storage_retries_total") <= proxy.faults["slow-down"]
    # Of four videos that came to their end, each has 20 frames; 17 and then 3 of a clip's, which are padded.
    assert total("ray_vidtok_frames_total") == 20 * (wanted["ray_vidtok_videos_total"] - NUM_SHARDS)
    busy, seconds = total("ray_vidtok_busy_seconds_total"), total("ray_vidtok_worker_seconds_total")
    assert 0 < busy <= 4 * seconds
    # Nobody is left who would say it.
    until(lambda: not prometheus.now("ray_vidtok_queue_bytes"), "gauges of workers that are gone go")


def promtool(*words: object) -> None:
    run = subprocess.run([PROGRAMS["promtool"], *map(str, words)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_dashboard_is_laid_out_and_asks_the_chosen_prometheus() -> None:
    dashboard = json.loads((MONITORING / "grafana_dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(squares.values()) == {1} and max(x for x, _ in squares) == 23
    asked = [target["datasource"] for panel in panels for target in panel.get("targets", ())]
    asked += [variable["datasource"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert asked and all(source == {"type": "prometheus", "uid": "${datasource}"} for source in asked)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Shards and ETA", "Throughput", "Stages and queues", "Rejects", "Retries and failures"]


def test_prometheus_takes_the_files() -> None:
    promtool("check", "config", MONITORING / "prometheus.yaml")
    promtool("check", "rules", MONITORING / "alerts.yaml")


RUN = 'dataset="d", run="r"'
LEFT, FAILED = (f'ray_vidtok_shards{{state="{state}", {RUN}}}' for state in ("waiting", "failed"))
CLIPS, VIDEOS, SECONDS = (f"ray_vidtok_{name}_total{{{RUN}}}" for name in ("clips", "videos", "worker_seconds"))
WORKING = f'ray_vidtok_workers{{state="working", {RUN}}}'
DIED, STOPPED, UNFIT = (f'ray_vidtok_workers_lost_total{{why="{why}", {RUN}}}' for why in ("died", "stopped", "unfit"))
UNREADABLE, FILTERED = (f'ray_vidtok_rejects_total{{class="{name}", {RUN}}}' for name in ("unreadable", "filtered"))
ATTEMPTS = f'ray_vidtok_attempts_failed_total{{error="StorageError", {RUN}}}'
BUSY = f'ray_vidtok_busy_seconds_total{{stage="encode", {RUN}}}'
RETRIES = f'ray_vidtok_storage_retries_total{{action="read", {RUN}}}'
# Of each alert what makes it fire, and what does not: series with a value a minute, as promtool writes them.
ALERTS: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    "VidtokNoProgress": (
        [{LEFT: "5x60", CLIPS: "100x60"}, {LEFT: "5x60"}],
        [
            {LEFT: "5x60", CLIPS: "0+9x60"},
            {LEFT: "5x60", CLIPS: "100x60", VIDEOS: "0+1x60"},
            {LEFT: "0x60", CLIPS: "100x60"},
        ],
    ),
    "VidtokRunGone": ([{LEFT: "5x20 stale"}], [{LEFT: "5x20 0 stale"}, {LEFT: "5x60"}]),
    "VidtokRejects": (
        [{UNREADABLE: "100x60", VIDEOS: "300x60"}],
        [{UNREADABLE: "50x60", FILTERED: "100x60", VIDEOS: "300x60"}, {UNREADABLE: "100x60", VIDEOS: "199x60"}],
    ),
    "VidtokShardsFailed": ([{FAILED: "0x20 1x40"}], [{FAILED: "0x60"}]),
    "VidtokAttemptsFailing": ([{ATTEMPTS: "0+1x60"}], [{ATTEMPTS: "0+0.2x60"}]),
    "VidtokWorkersDying": ([{DIED: "0+1x60"}], [{STOPPED: "0+1x60"}]),
    "VidtokWorkerUnfit": ([{UNFIT: "1x60"}], [{DIED: "1x60"}]),
    "VidtokNoWorkers": ([{LEFT: "5x60", WORKING: "0x60"}], [{LEFT: "5x60", WORKING: "1x60"}]),
    "VidtokEncoderStarved": (
        [{BUSY: "0+10x60", SECONDS: "0+60x60"}],
        [{BUSY: "0+40x60", SECONDS: "0+60x60"}],
    ),
    "VidtokStorageRetries": ([{RETRIES: "0+3x60", WORKING: "2x60"}], [{RETRIES: "0+3x60", WORKING: "4x60"}]),
}


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules()} == set(ALERTS)
    tests = []
    for alert, (firing, silent) in ALERTS.items():
        expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing", {RUN}}}) or vector(0)'
        for given in (*firing, *silent):
            wanted = [{"labels": "{}", "value": int(given in firing)}]
            tests.append(
                {
                    "name": f"{alert}: {given}",
                    "interval": "1m",
                    "input_series": [{"series": series, "values": values} for series, values in given.items()],
                    "promql_expr_test": [{"expr": expression, "eval_time": "45m", "exp_samples": wanted}],
                }
            )
    suite = {"rule_files": [str(MONITORING / "alerts.yaml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(suite))
    promtool("test", "rules", tmp_path / "tests.yaml")


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_the_page_tells_of_each_series() -> None:
    told = (MONITORING / "README.md").read_text()
    assert not [name for name in exported() if f"`{name}`" not in told]
    assert series() <= set(exported())


def exported() -> list[str]:
    """All that there is to scrape."""
    return [f"ray_vidtok_{name}_total" for name in COUNTERS] + [f"ray_vidtok_{name}" for name in GAUGES]
