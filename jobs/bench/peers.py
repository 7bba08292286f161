"""Other loaders, as their own documentation uses them, over the tokens that `vidtok bench read` gives them.

A program of its own, which knows nothing of this project, so that it runs where those loaders are installed:
`python peers.py '{"loader": "litdata", "action": "read", ...}'`. Each one gives batches of tokens (int32) and ids,
shuffled within a window of rows, and all rows once an epoch.
"""

import importlib
import json
import resource
import sys
import time
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SHAPE = (5, 32, 32)


def row_id(number: int) -> str:
    """As long as ours."""
    return f"{number:032x}"


def write(task: dict[str, Any]) -> None:
    """Brings the tokens into a loader's own form."""
    tokens = np.load(task["tokens"], mmap_mode="r")
    WRITERS[task["loader"]](tokens, Path(task["folder"]), task["window"])


def write_streaming(tokens: Any, folder: Path, window: int) -> None:
    """MosaicML Streaming: shards of MDS, uncompressed."""
    columns = {"tokens": f"ndarray:int32:{','.join(map(str, SHAPE))}", "id": "str"}
    with _streaming().MDSWriter(out=str(folder), columns=columns) as writer:
        for number, row in enumerate(tokens):
            writer.write({"tokens": np.array(row), "id": row_id(number)})


def write_litdata(tokens: Any, folder: Path, window: int) -> None:
    """LitData: binary chunks, of a window's rows each."""
    writer = importlib.import_module("litdata.streaming.writer").BinaryWriter(str(folder), chunk_size=window)
    for number, row in enumerate(tokens):
        writer[number] = {"tokens": torch.from_numpy(np.array(row)), "id": row_id(number)}
    writer.done()
    writer.merge()


def write_token_blocks(tokens: Any, folder: Path, window: int) -> None:
    """LitData's form for tokens alone: one long array, of which each row is a block."""
    loader = importlib.import_module("litdata.streaming.item_loader").TokensLoader()
    writer = importlib.import_module("litdata.streaming.writer").BinaryWriter
    writer = writer(str(folder), chunk_size=window, item_loader=loader)
    for number, row in enumerate(tokens):
        writer[number] = torch.from_numpy(np.array(row)).flatten()
    writer.done()
    writer.merge()


def write_webdataset(tokens: Any, folder: Path, window: int) -> None:
    """WebDataset: tars of npy members."""
    webdataset = importlib.import_module("webdataset")
    folder.mkdir(parents=True)
    of_a_tar = max(1, min(window, len(tokens) // 4))  # some for each worker
    for shard, first in enumerate(range(0, len(tokens), of_a_tar)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for number in range(first, min(first + of_a_tar, len(tokens))):
                tar.write({"__key__": row_id(number), "tokens.npy": np.array(tokens[number])})


def write_nothing(tokens: Any, folder: Path, window: int) -> None:
    """For those that read our Parquet files."""


def _streaming() -> Any:
    """Its import asks for torchvision, for datasets of pictures; where that does not fit torch, a husk will do."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        husk = "torchvision"
        for name in (husk, f"{husk}.datasets", f"{husk}.transforms", f"{husk}.transforms.functional"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
        sys.modules[f"{husk}.datasets"].__dict__.update(VisionDataset=object, CIFAR10=object)
        sys.modules[f"{husk}.transforms.functional"].__dict__.update(to_tensor=None)
    return importlib.import_module("streaming")


def streaming_batches(task: dict[str, Any]) -> Any:
    """MosaicML Streaming."""
    dataset = _streaming().StreamingDataset(
        local=task["folder"], shuffle=True, shuffle_block_size=task["window"], batch_size=task["batch_size"]
    )
    return DataLoader(dataset, batch_size=task["batch_size"], num_workers=task["workers"])


def litdata_batches(task: dict[str, Any]) -> Any:
    """LitData."""
    litdata = importlib.import_module("litdata")
    dataset = litdata.StreamingDataset(task["folder"], shuffle=True)
    return litdata.StreamingDataLoader(dataset, batch_size=task["batch_size"], num_workers=task["workers"])


def token_block_batches(task: dict[str, Any]) -> Any:
    """LitData's TokensLoader, which knows of tokens alone: no ids."""
    litdata = importlib.import_module("litdata")
    loader = importlib.import_module("litdata.streaming.item_loader").TokensLoader(block_size=int(np.prod(SHAPE)))
    dataset = litdata.StreamingDataset(task["folder"], item_loader=loader, shuffle=True)
    for batch in litdata.StreamingDataLoader(dataset, batch_size=task["batch_size"], num_workers=task["workers"]):
        yield {"tokens": batch.view(-1, *SHAPE)}


def webdataset_batches(task: dict[str, Any]) -> Any:
    """WebDataset."""
    webdataset = importlib.import_module("webdataset")
    urls = [str(path) for path in sorted(Path(task["folder"]).iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(task["window"]).decode()
    dataset = dataset.to_tuple("__key__", "tokens.npy").batched(task["batch_size"])
    for ids, tokens in webdataset.WebLoader(dataset, batch_size=None, num_workers=task["workers"]):
        yield {"id": ids, "tokens": torch.as_tensor(tokens)}


def datasets_batches(task: dict[str, Any]) -> Any:
    """Hugging Face datasets, streaming our Parquet files."""
    datasets = importlib.import_module("datasets")
    files = [str(path) for path in sorted(Path(task["parquet"]).glob("*.parquet"))]
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    dataset = dataset.select_columns(["id", "tokens"]).shuffle(seed=0, buffer_size=task["window"]).with_format("numpy")

    def joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = torch.from_numpy(np.stack([row["tokens"] for row in rows]))
        return {"id": [str(row["id"]) for row in rows], "tokens": tokens.view(-1, *SHAPE)}

    return DataLoader(dataset, batch_size=task["batch_size"], num_workers=task["workers"], collate_fn=joined)


class _PlainLoop(IterableDataset[Any]):
    """What one writes by hand: some row groups into memory, shuffled, cut into batches."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pa = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
        worker = get_worker_info()
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        files = [str(path) for path in sorted(Path(self._task["parquet"]).glob("*.parquet"))]
        groups = [(file, group) for file in files for group in range(parquet.ParquetFile(file).num_row_groups)]
        rng = np.random.default_rng(0)
        rng.shuffle(groups)
        groups = groups[number::of]
        at_once = max(1, round(self._task["window"] / self._task["group_rows"]))
        for first in range(0, len(groups), at_once):
            tables = [
                parquet.ParquetFile(file).read_row_group(int(group), columns=["id", "tokens"])
                for file, group in groups[first : first + at_once]
            ]
            table = pa.concat_tables(tables).combine_chunks()
            tokens = table["tokens"].chunk(0).values.to_numpy().reshape(-1, *SHAPE)
            ids = table["id"].to_pylist()
            order = rng.permutation(len(tokens))
            for begin in range(0, len(order), self._task["batch_size"]):
                chosen = order[begin : begin + self._task["batch_size"]]
                yield {"id": [ids[place] for place in chosen], "tokens": torch.from_numpy(tokens[chosen])}


def pyarrow_batches(task: dict[str, Any]) -> Any:
    """A plain PyArrow loop over our Parquet files."""
    return DataLoader(_PlainLoop(task), batch_size=None, num_workers=task["workers"])


WRITERS = {
    "streaming": write_streaming,
    "litdata": write_litdata,
    "litdata, no ids": write_token_blocks,
    "webdataset": write_webdataset,
    "datasets": write_nothing,
    "pyarrow": write_nothing,
}
READERS = {
    "streaming": streaming_batches,
    "litdata": litdata_batches,
    "litdata, no ids": token_block_batches,
    "webdataset": webdataset_batches,
    "datasets": datasets_batches,
    "pyarrow": pyarrow_batches,
}


def measured(batches: Any) -> dict[str, Any]:
    """An epoch, timed from its first batch on: workers' start is no loader's speed.

    Returns:
        rows; timed_rows, seconds and cpu_seconds of those after the first batch; and the sum of the rows' first values,
        which says whether each row came once.
    """
    began = cpu = total = 0.0
    rows = timed = 0
    for batch in batches:
        values = batch["tokens"]
        rows += len(values)
        # Nothing is kept of a batch: what stays between large blocks keeps the allocator from using them again.
        total += float(values.flatten(1)[:, 0].sum(dtype=torch.float64))
        assert len(batch.get("id", values)) == len(values)
        if not began:
            began, cpu = time.monotonic(), _cpu_seconds()
        else:
            timed += len(values)
    seconds = time.monotonic() - began
    return {
        "rows": rows,
        "timed_rows": timed,
        "sum": total,
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds() - cpu,
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Does what the argument says; a reading is timed in its second epoch, and printed as JSON."""
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    if task["action"] == "write":
        write(task)
        return
    measured(READERS[task["loader"]](task))
    sys.stdout.write("\n" + json.dumps(measured(READERS[task["loader"]](task))) + "\n")


if __name__ == "__main__":
    main()
