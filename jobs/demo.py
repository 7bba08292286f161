"""The demonstration: two short videos through the real pipeline on this machine, and one clip back again.

`python -m jobs.demo [FOLDER]` leaves shards, job file, dataset, decoded clip and picture in FOLDER (build/demo), and
prints each command that it runs.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import webdataset
import yaml
from PIL import Image
from rich.console import Console

from pipeline.dataset import Dataset
from pipeline.reconstruct import decode_row, load_decoder
from pipeline.records import Frames
from pipeline.source_clips import SourceClips
from pipeline.storage import open_store

__all__ = ["job_of", "main", "pack_clips"]

CLIPS = Path(__file__).parent / "clips"
_CAPTIONS = {"bigbuckbunny": "An animated rabbit in a meadow.", "cityCC0": "A city street at night."}
_SHOWN_FRAMES = 6


def pack_clips(folder: Path) -> None:
    """Writes one WebDataset shard for each carried clip: video, caption and JSON."""
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(CLIPS.glob("*.mp*"))):
        key = path.stem
        with webdataset.TarWriter(str(folder / f"{number:03d}.tar")) as tar:
            tar.write(
                {
                    "__key__": key,
                    path.suffix.removeprefix("."): path.read_bytes(),
                    "txt": _CAPTIONS[key],
                    "json": json.dumps({"source": path.name}).encode(),
                }
            )


def job_of(folder: Path) -> dict[str, Any]:
    """The job of the demonstration in a folder."""
    return {
        "input": {"shards": f"{folder}/shards/{{000..001}}.tar"},
        "output": f"{folder}/dataset",
        "model": {"name": "vidtok_tiny_fsq_causal_488_1073741824"},
        "clips": {"fps": 8, "size": 128},
        "executor": {"kind": "ray", "num_workers": 2},
    }


def main() -> None:
    """Runs the demonstration."""
    began = time.monotonic()
    console = Console()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    shutil.rmtree(folder, ignore_errors=True)
    pack_clips(folder / "shards")
    job_file = folder / "job.yaml"
    job = job_of(folder)
    job_file.write_text(yaml.safe_dump(job, sort_keys=False))
    console.print(f"The job, {job_file}:\n\n{job_file.read_text()}", markup=False, highlight=False)
    _run(console, "tokenize", str(job_file))
    _run(console, "inspect", str(job["output"]))
    first = _first_row_id(folder / "dataset")
    _run(console, "decode", str(job["output"]), "--id", first, "--out", str(folder / "clip.mp4"))
    picture = folder / "original-and-reconstruction.png"
    draw(str(job["output"]), first, picture)
    console.print(f"Original (above) against reconstruction (below): {picture}", highlight=False, soft_wrap=True)
    console.print("The model is a small one, which the package carries: the released ones keep far more detail.")
    console.print(f"Done in {time.monotonic() - began:.0f} s.", highlight=False)


def draw(root: str, wanted: str, target: Path) -> None:
    """Writes a picture of frames of one row: the original's above, the reconstruction's below."""
    dataset = Dataset.open(open_store(root))
    row = dataset.find_row(wanted)
    clip = SourceClips(dataset).find(row)
    decoded = decode_row(row, load_decoder(dataset.description))
    chosen = np.linspace(0, len(decoded) - row["num_padded_frames"] - 1, _SHOWN_FRAMES).round().astype(int)
    rows: list[Frames] = [np.concatenate(list(frames[chosen]), axis=1) for frames in (clip.frames_THWC, decoded)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(target)


def _first_row_id(dataset: Path) -> str:
    """As any Arrow reader would find it."""
    return str(ds.dataset(dataset / "data").head(1, columns=["id"]).column("id")[0])


def _run(console: Console, *arguments: str) -> None:
    console.print(f"[bold]$ vidtok {shlex.join(arguments)}[/]", highlight=False, soft_wrap=True)
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=True)
    console.print()


if __name__ == "__main__":
    main()
