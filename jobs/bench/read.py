"""vidtok bench read: rows a second of TokenDataset, beside other loaders on the same tokens in the same run."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench import peers
from jobs.bench.write import GRID, batches_of
from pipeline.dataset import Dataset, fingerprint
from pipeline.errors import ConfigError
from pipeline.reading.loader import TokenLoader
from pipeline.reading.token_dataset import TokenDataset
from pipeline.records import EncodedClip, Shard
from pipeline.rows import build_rows, row_schema
from pipeline.shard_log import ShardLog
from pipeline.snapshots import add_to_snapshot, newest_snapshot
from pipeline.storage import open_store
from vidtok_model import get_config

__all__ = ["LOADERS", "ReadRate", "bench_read"]

_MODELS = {"tokens": "vidtok_fsq_causal_488_32768", "latents": "vidtok_kl_causal_488_4chn"}
_PART_ROWS = 3072
_OURS = {"TokenDataset": False, "TokenDataset, cached": True}
LOADERS = (*_OURS, *peers.READERS)


@dataclass(frozen=True)
class ReadRate:
    """What was measured of one loader.

    Attributes:
        loader: its name.
        per_second: tokens (of latents: bytes) a second, as the training waits for them: median.
        lowest: the lowest of the runs.
        highest: the highest of the runs.
        per_core_second: the same by CPU time of all its processes: median.
        ratio: of TokenDataset's with its cache to this one's, in turns in one run: median.
        missing: why it was not measured; None where it was.
    """

    loader: str
    per_second: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
    per_core_second: float = 0.0
    ratio: float = 0.0
    missing: str | None = None


def bench_read(
    *, rows: int, runs: int, workers: int, batch_size: int, kind: str = "tokens", python: str | None = None
) -> list[ReadRate]:
    """Reads random tokens of 17x256x256 clips, 4x8x8, with each loader in turns, from files in the page cache.

    Args:
        rows: how many.
        runs: epochs of each loader.
        workers: of the DataLoader; 0: the process itself.
        batch_size: of each loader.
        kind: `tokens`, or `latents`, which TokenDataset alone reads here.
        python: the interpreter that has the other loaders; this one by default.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = _tasks(Path(folder), rows, workers, batch_size, kind)
        unit = int(np.prod(GRID)) if kind == "tokens" else int(np.prod(GRID)) * 4 * 2
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
        missing: dict[str, str] = {}
        for run in range(-1, runs):
            for name, task in tasks.items():
                if name in missing:
                    continue
                if run >= 0:
                    found[name].append(_run(name, {**task, "action": "read"}, python))
                elif name not in _OURS and (reason := _lacking(name, task, python)):
                    missing[name] = reason
    return [_rate(name, found, unit, missing.get(name)) for name in tasks]


def _tasks(folder: Path, rows: int, workers: int, batch_size: int, kind: str) -> dict[str, dict[str, Any]]:
    """Writes our dataset and what the others are made of; says what each loader has to do."""
    draw = np.random.default_rng(0)
    if kind == "tokens":
        values: Any = draw.integers(0, 32768, (rows, *GRID), np.int32)
    else:
        values = draw.standard_normal((rows, 4, *GRID), np.float32)
    np.save(folder / "values.npy", values)
    group_rows = _write_ours(folder / "ours", values, kind)
    firsts = values.reshape(rows, -1)[:, 0].astype(np.float16 if kind == "latents" else np.int32)
    common = {
        "rows": rows,
        "workers": workers,
        "batch_size": batch_size,
        "window": 2 * group_rows,
        "group_rows": group_rows,
        "tokens": str(folder / "values.npy"),
        "parquet": str(folder / "ours/data"),
        "sum": float(firsts.astype(np.float64).sum()),
    }
    ours = {name: {**common, "loader": name, "folder": str(folder / "ours")} for name in _OURS}
    for name, task in ours.items():
        task["cache"] = str(folder / "cache") if _OURS[name] else None
    others = peers.READERS if kind == "tokens" else {}
    return ours | {name: {**common, "loader": name, "folder": str(folder / name)} for name in others}


def _write_ours(root: Path, values: Any, kind: str) -> int:
    """Commits the rows; gives how many a row group has."""
    config = get_config(_MODELS[kind])
    plan = {"logvar": False, "clips": {"mode": "windows"}, "model": {"config": config.to_dict()}}
    model = {"name": _MODELS[kind], "checkpoint": "random", "weights": "", "config": config.to_dict()}
    store = open_store(str(root))
    Dataset.create(store, {"fingerprint": fingerprint(plan), "plan": plan, "model": model})
    shard = Shard(shard_id="bench", path="bench.tar", size_bytes=0, etag=None)
    schema = row_schema(is_discrete=config.is_discrete, logvar=False)
    log = ShardLog(store, shard, schema=schema, provenance={"fingerprint": fingerprint(plan)}, attempt_id="0" * 32)
    for first in range(0, len(values), _PART_ROWS):
        clips = values[first : first + _PART_ROWS]
        batches = [(batch, [_encoded(one, kind) for one in some]) for batch, some in batches_of(clips, first=first)]
        (part,) = build_rows(batches, logvar=False)
        log.append(part)
    commit = log.commit()
    add_to_snapshot(store, [commit], newest_snapshot(store))
    rows: list[int] = commit["parts"][0]["row_groups"]
    return max(rows)


def _encoded(values: Any, kind: str) -> EncodedClip:
    return EncodedClip(tokens_THW=values) if kind == "tokens" else EncodedClip(latents_CTHW=values)


def _lacking(name: str, task: dict[str, Any], python: str | None) -> str | None:
    """Writes a peer's form; says why not where it is not installed."""
    module = name.partition(",")[0]
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python or sys.executable, "-c", code], check=False).returncode:
        return f"no module {module}"
    _program(name, {**task, "action": "write"}, python)
    return None


def _run(name: str, task: dict[str, Any], python: str | None) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(_program(name, task, python).splitlines()[-1])
    if result["rows"] != task["rows"] or abs(result["sum"] - task["sum"]) > 1e-6 * abs(task["sum"]):
        raise ConfigError(f"{name} gave {result['rows']} rows, or others, expected each of {task['rows']} once")
    return result


def _program(name: str, task: dict[str, Any], python: str | None) -> str:
    command: Sequence[str] = [python or sys.executable, str(Path(peers.__file__))]
    if name in _OURS:
        command = [sys.executable, "-m", "jobs.bench.read"]
    done = subprocess.run([*command, json.dumps(task)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{name} could not {task['action']}: {done.stderr[-2000:]}")
    return done.stdout


def _rate(name: str, found: dict[str, list[dict[str, Any]]], unit: int, missing: str | None) -> ReadRate:
    if missing is not None:
        return ReadRate(name, missing=missing)
    rates = [run["timed_rows"] * unit / run["seconds"] for run in found[name]]
    cached = [run["timed_rows"] * unit / run["seconds"] for run in found["TokenDataset, cached"]]
    return ReadRate(
        loader=name,
        per_second=statistics.median(rates),
        lowest=min(rates),
        highest=max(rates),
        per_core_second=statistics.median(run["timed_rows"] * unit / run["cpu_seconds"] for run in found[name]),
        ratio=statistics.median(ours / theirs for ours, theirs in zip(cached, rates, strict=True)),
    )


def _our_batches(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # Two row groups at a time, which is the others' window.
    dataset = TokenDataset(task["folder"], batch_size=task["batch_size"], lanes=2, cache_dir=task["cache"])
    for batch in TokenLoader(dataset, num_workers=task["workers"]):
        yield batch if "tokens" in batch else {**batch, "tokens": batch["latents"]}


if __name__ == "__main__":
    peers.READERS |= dict.fromkeys(_OURS, _our_batches)
    peers.main()
