"""A small real dataset with rejects, to damage, clean up and go on with."""

from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset
from pipeline.storage import Store, open_store
from pipeline.verify import Verdict, verify_dataset
from tests.jobs_for_tests import job
from tests.media import gradient_frames, make_video, pack_tar

__all__ = ["check", "config_of", "dataset_of", "pack_input", "parts", "source"]


def pack_input(folder: Path) -> None:
    """Two shards of two videos, with one that is none between them."""
    data = make_video(gradient_frames(20))
    for number in range(2):
        pack_tar(folder / f"in/{number}.tar", [("a.mp4", data), ("bad.mp4", b"no video"), ("b.mp4", data)])


def config_of(folder: Path, kind: str = "fsq", **changes: Any) -> Any:
    """The job that makes it, of tokens or of latents."""
    name = {"fsq": "vidtok_fsq_causal_488_32768", "kl": "vidtok_kl_causal_488_4chn"}[kind]
    return job(folder / "in", folder / "out", clips={"fps": None, "size": 16}, model={"name": name}, **changes)


def dataset_of(folder: Path) -> Dataset:
    return Dataset.open(open_store(str(folder / "out")))


def source(folder: Path) -> Store:
    return open_store(str(folder / "in"))


def check(folder: Path, **options: Any) -> Verdict:
    return verify_dataset(dataset_of(folder), **options)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "out/data").iterdir())
