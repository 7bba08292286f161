"""Prometheus, with the project's own configuration."""

import json
import os
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.servers.process import end, free_port, start, wait_for_port
from tests.support import ROOT

__all__ = ["MONITORING", "PROGRAMS", "Prometheus"]

MONITORING = ROOT / "infra" / "monitoring"
# Where they are; None where they are not installed. The folder is where `make servers` unpacks them.
_PATH = f"{Path(sys.prefix, 'prometheus/usr/bin')}:{os.environ['PATH']}"
PROGRAMS = {program: shutil.which(program, path=_PATH) for program in ("prometheus", "promtool")}


class Prometheus:
    """Scrapes once a second while the block runs."""

    def __init__(self, folder: Path, discovery: Path) -> None:
        """Keeps its data in `folder`, and looks in a file of Ray's for what to scrape."""
        folder.mkdir()
        config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (targets,) = config["scrape_configs"][0]["file_sd_configs"]
        targets.update(files=[str(discovery)], refresh_interval="1s")
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        shutil.copy(MONITORING / "alerts.yaml", folder)
        self._folder, self._port = folder, free_port()

    def __enter__(self) -> Self:
        log = self._folder / "log"
        command = [PROGRAMS["prometheus"], f"--config.file={self._folder}/prometheus.yaml"]
        command += [f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address=127.0.0.1:{self._port}"]
        self._process = start(command, log)
        try:
            wait_for_port(self._port, self._process, log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def _get(self, path: str, **query: Any) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def now(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and values."""
        found = self._get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def since(self, expression: str, began: float, ended: float) -> list[float]:
        """All values that an expression had between two times, each second."""
        found = self._get("query_range", query=expression, start=began, end=ended, step=1)["result"]
        return [float(value) for series in found for _, value in series["values"]]

    def rules(self) -> dict[str, str]:
        """The health of each alert."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}
