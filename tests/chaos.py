"""Jobs over the real clips whose workers, decoders, driver, nodes and store are killed at seeded random moments.

python -m tests.chaos --seed 1 --kills worker=12,decoder=8,driver=3,node=2,store=2

Three nodes run on this machine, and the datasets lie on localbucket. Jobs are run one after the other until all kills
are done; each must end with the dataset of an unbroken run. Prints what was killed, and what came of each job.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import tests.conftest  # noqa: F401  (sets the environment, before Ray and torch are imported)
from tests.chaos_cluster import ChaosCluster, Victims
from tests.integration.places import assert_equal
from tests.jobs_for_tests import job, real_clips
from tests.media import pack_tar
from tests.process_tree import Process, adopt_orphans, end_all, still_there
from tests.servers.localbucket import LocalBucket
from tests.support import ROOT

KINDS = ("worker", "decoder", "forkserver", "driver", "node", "store")
_CLI = (sys.executable, "-m", "jobs.cli")
_TICK_SECONDS = 0.05
_AWAY_SECONDS = 2.0  # a store, at most
# How long a process may outlive the one that it works for, on a machine that is busy; else it was left behind.
_OUTLIVE_SECONDS = 60.0
_VIDEOS_OF_A_SHARD = 2
_MAX_ATTEMPTS = 10
# In the summary that a driver ends with: of the last attempt, and of each before.
_FAILED_ATTEMPT = re.compile(r"^(?:failed .+ after \d+ attempts|  attempt \d+): (.*)", re.MULTILINE)


class Fault(Exception):
    """The pipeline did what it must not."""


@dataclass
class JobReport:
    """One job: what was killed in it, how its drivers ended, and what is wrong with it, if anything.

    `at_work` are those of the kills that took others along: a worker its decoders, a driver or a node its workers.
    """

    kills: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    equal: bool = False
    problem: str = ""


class Chaos:
    """One seed's jobs."""

    def __init__(self, folder: Path, seed: int, kills: Mapping[str, int], *, shards: int, mean_seconds: float) -> None:
        """Starts the store and the cluster, and makes the unbroken dataset.

        Args:
            folder: for everything.
            seed: of the order of the kills and the moments between them.
            kills: how many of each kind.
            shards: of a job.
            mean_seconds: between two kills.
        """
        self._dice = random.Random(seed)
        # Each with whether it may strike who does nothing yet: a worker starts for longer than it then lives.
        self._due = [(kind, self._dice.random() < 0.2) for kind in KINDS for _ in range(kills.get(kind, 0))]
        self._dice.shuffle(self._due)
        self._mean_seconds = mean_seconds
        self._folder = folder
        self._doomed: list[tuple[float, Process]] = []
        self._store = LocalBucket(folder)
        self._upload(shards)
        self._unbroken = self._job("unbroken", {"kind": "inline"})
        if code := self._driver("unbroken", self._unbroken).wait():
            raise RuntimeError(f"the unbroken run ended with {code}:\n{self._log.read_text()}")
        self._cluster = ChaosCluster(folder)
        self._victims = Victims(os.getpid(), {path.stat().st_size for path in real_clips()})

    def _upload(self, shards: int) -> None:
        import boto3

        client = boto3.client("s3", endpoint_url=self._store.endpoint)
        client.create_bucket(Bucket="corpus")
        clips = real_clips()
        for shard in range(shards):
            chosen = [clips[(shard * _VIDEOS_OF_A_SHARD + n) % len(clips)] for n in range(_VIDEOS_OF_A_SHARD)]
            members = [(f"{n}_{path.stem}{path.suffix}", path.read_bytes()) for n, path in enumerate(chosen)]
            path = pack_tar(self._folder / f"{shard:03d}.tar", members)
            client.upload_file(str(path), "corpus", f"in/{path.name}")

    def _job(self, name: str, executor: Mapping[str, Any]) -> Any:
        side = {"endpoint_url": self._store.endpoint}
        return job(
            "s3://corpus/in",
            f"s3://corpus/{name}",
            clips={"fps": None, "size": 64},  # more frames than find room in a decoder's windows
            # As one would where nodes come and go: a worker that is killed costs its shard an attempt.
            executor={"max_attempts": _MAX_ATTEMPTS, "decoders": 2, **executor},
            storage={"input": side, "output": side},
        )

    def _driver(self, name: str, config: Any) -> "subprocess.Popen[bytes]":
        path, self._log = self._folder / f"{name}.yaml", self._folder / f"{name}.log"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        with self._log.open("wb") as output:
            return subprocess.Popen(
                [*_CLI, "tokenize", "--no-report", str(path)], cwd=ROOT, stdout=output, stderr=output
            )

    def run(self) -> list[JobReport]:
        """Runs jobs until every kill is done, or one comes out wrong."""
        reports: list[JobReport] = []
        while self._due and not (reports and reports[-1].problem):
            reports.append(JobReport())
            began = time.monotonic()
            try:
                self._run_job(f"job{len(reports)}", reports[-1])
            except (Fault, AssertionError, TimeoutError):
                said = self._log.read_text()[-4000:]
                reports[-1].problem = f"{traceback.format_exc(limit=-1)}The driver said:\n{said}"
            reports[-1].seconds = round(time.monotonic() - began, 1)
            print(reports[-1], file=sys.stderr, flush=True)
        return reports

    def _run_job(self, name: str, report: JobReport) -> None:
        executor = {"kind": "ray", "address": self._cluster.address, "num_workers": 3, "gpus_per_worker": 1}
        config = self._job(name, executor)
        code = None
        while code != 0:
            driver = self._driver(name, config)
            was_killed = self._attend(driver, report)
            code = driver.wait()
            report.exits[code] += 1
            if not (was_killed or code == 0 or (code == 1 and self._only_workers_died())):
                raise Fault(f"the driver ended with {code}, and nobody killed it")
        self._wait_until_all_ended()
        assert_equal(config, self._unbroken)
        endpoint = ("--endpoint-url", self._store.endpoint)
        verify = [*_CLI, "verify", config.output, "--deep", "--source", *endpoint]
        verdict = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, timeout=300)
        if verdict.returncode:
            raise Fault(f"verify ended with {verdict.returncode}: {verdict.stdout}{verdict.stderr}")
        report.equal = True

    def _only_workers_died(self) -> bool:
        """Whether each attempt that a driver counted died with its worker; another run has new ones."""
        causes = _FAILED_ATTEMPT.findall(self._log.read_text())
        return bool(causes) and all(cause.startswith("its worker died") for cause in causes)

    def _attend(self, driver: "subprocess.Popen[bytes]", report: JobReport) -> bool:
        """Kills while a driver works; returns whether it was itself killed."""
        # Drawn anew for each driver: how long one has waited says nothing of how long is left.
        moment = self._next_moment()
        while driver.poll() is None:
            is_due = self._due and time.monotonic() >= moment
            if is_due and (followers := self._kill(*self._due[-1], driver)) is not None:
                self._doomed += [(time.monotonic() + _OUTLIVE_SECONDS, process) for process in followers]
                kind, _ = self._due.pop()
                report.kills[kind] += 1
                report.at_work[kind] += bool(followers)
                if kind == "driver":
                    return True
                moment = self._next_moment()
            self._look_for_left_behind()
            time.sleep(_TICK_SECONDS)
        return False

    def _next_moment(self) -> float:
        return time.monotonic() + self._dice.expovariate(1 / self._mean_seconds)

    def _kill(self, kind: str, may_start: bool, driver: "subprocess.Popen[bytes]") -> list[Process] | None:
        """Kills one of this kind; returns who worked for it and must not outlive it, None where there is none now."""
        followers: list[Process] = []
        if kind == "store":
            self._store.kill()
            time.sleep(self._dice.uniform(0, _AWAY_SECONDS))
            self._store.start()
        elif kind == "driver":
            followers = self._victims.all()
            driver.kill()
        elif kind == "node":
            node = self._cluster.choose(self._dice)
            followers = self._victims.below(self._cluster.raylet(node))
            self._cluster.replace(node)
        else:
            if not (victims := self._victims.of("starting" if kind == "worker" and may_start else kind)):
                return None
            victim = self._dice.choice(victims)
            followers = self._victims.below(victim.process.pid)
            if not self._victims.kill(victim):
                return None
        return followers

    def _look_for_left_behind(self) -> None:
        self._doomed = [(ends, process) for ends, process in self._doomed if still_there(process)]
        if late := [process for ends, process in self._doomed if time.monotonic() > ends]:
            raise Fault(f"left behind by what was killed: {late}")

    def _wait_until_all_ended(self) -> None:
        ends = time.monotonic() + _OUTLIVE_SECONDS
        while left := self._victims.all():
            if time.monotonic() > ends:
                raise Fault(f"left behind by a job that ended: {left}")
            time.sleep(_TICK_SECONDS)


def run_chaos(
    seed: int, kills: Mapping[str, int], *, shards: int = 6, mean_seconds: float = 1.5, within_seconds: int = 3000
) -> dict[str, Any]:
    """Runs one seed's jobs and leaves nothing behind.

    Returns:
        The seed, the seconds that it took, the kills by kind, all and at work, and a JobReport of each job.
    """
    adopt_orphans()
    began = time.monotonic()
    # Not where tests put their files: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(within_seconds)
    try:
        jobs = Chaos(folder, seed, kills, shards=shards, mean_seconds=mean_seconds).run()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
        end_all(os.getpid())
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "kills": sum((report.kills for report in jobs), Counter()),
        "at_work": sum((report.at_work for report in jobs), Counter()),
        "jobs": [vars(report) for report in jobs],
    }


def _stop(*_: object) -> None:
    sys.exit("stopped")


def _give_up(*_: object) -> None:
    raise TimeoutError("it takes too long: something hangs, or the machine is too busy")


def _parse_kills(text: str) -> dict[str, int]:
    kills = {kind: int(count) for kind, _, count in (part.partition("=") for part in text.split(","))}
    if unknown := kills.keys() - set(KINDS):
        raise ValueError(f"{', '.join(unknown)}: expected some of {', '.join(KINDS)}")
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kills what a job is made of.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kills", type=_parse_kills, default="worker=12,decoder=8,forkserver=2,driver=3,node=2,store=2"
    )
    parser.add_argument("--shards", type=int, default=6, help="of a job")
    parser.add_argument("--mean-seconds", type=float, default=1.5, help="between two kills")
    parser.add_argument("--within-seconds", type=int, default=3000, help="all of it, or it is a fault")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    result = run_chaos(given.pop("seed"), given.pop("kills"), **given)
    if as_json:
        print(json.dumps(result))
    else:
        at_work = ", ".join(f"{kind} {count}" for kind, count in result["at_work"].items())
        print(f"seed {result['seed']}: {sum(result['kills'].values())} kills in {result['seconds']} s:", end=" ")
        print(", ".join(f"{kind} {result['kills'][kind]}" for kind in KINDS), f"(with followers: {at_work})")
        for number, report in enumerate(result["jobs"], 1):
            verdict = "equal to the unbroken run" if report["equal"] else report["problem"]
            print(f"job {number}: {sum(report['kills'].values())} kills in {report['seconds']} s, {verdict}")
    sys.exit(0 if all(report["equal"] for report in result["jobs"]) else 1)


if __name__ == "__main__":
    main()
