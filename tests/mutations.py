"""Ten faults that are easily made in the tokenizer and around it, each with the test that must see it.

    python -m tests.mutations            # all: about two minutes; each prints the test that turned red
    python -m tests.mutations look-ahead

Each is made in a copy of the project, in which the named test is run.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

__all__ = ["MUTATIONS", "Mutation", "survives"]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One fault: `old` becomes `new` in `file`, once; `test` is a file of tests and the name of one."""

    file: str
    old: str
    new: str
    test: str


_MODEL = "tests/vidtok_model/test_model_"
MUTATIONS = {
    "padding side": Mutation(
        file="vidtok_model/layers.py",
        old="[zeros_BTHWC, x_BTHWC] if self.padding",
        new="[x_BTHWC, zeros_BTHWC] if self.padding",
        test=f"{_MODEL}golden.py::test_released_model",
    ),
    "kept frames off by one": Mutation(
        file="vidtok_model/memory.py",
        old="[:, end - count : end]",
        new="[:, end - count - 1 : end - 1]",
        test=f"{_MODEL}streams.py::test_any_chunks_of_two_streams_at_once_give_the_whole",
    ),
    "look-ahead": Mutation(
        file="vidtok_model/memory.py",
        old="frames_BTHWC.shape[1] - self.ahead",
        new="frames_BTHWC.shape[1]",
        test=f"{_MODEL}streams.py::test_released_model_in_a_stream",
    ),
    "logvar clamp": Mutation(
        file="vidtok_model/regularizers.py",
        old="logvar.clamp(*_LOGVAR_RANGE)",
        new="logvar.clamp(-20, 20)",
        test=f"{_MODEL}regularizers.py::test_the_log_variance_is_clamped_and_is_the_second_half",
    ),
    "digit order": Mutation(
        file="vidtok_model/regularizers.py",
        old="[math.prod(levels[:channel])",
        new="[math.prod(levels[channel + 1 :])",
        test=f"{_MODEL}golden.py::test_released_model",
    ),
    "tail repeat": Mutation(
        file="vidtok_model/streams.py",
        old="x_BTHWC[:, -1:].expand(-1, missing",
        new="x_BTHWC[:, :1].expand(-1, missing",
        test=f"{_MODEL}streams.py::test_any_chunks_of_two_streams_at_once_give_the_whole",
    ),
    "cache key": Mutation(
        file="pipeline/checkpoints.py",
        old='f"{path} {found.size_bytes} {found.etag}"',
        new='f"{path}"',
        test="tests/pipeline/test_checkpoints.py::test_the_cache_is_keyed_by_what_is_in_it",
    ),
    "stub that executes": Mutation(
        file="vidtok_model/ckpt_file.py",
        old="(_MappingStub if _MAPPING.fullmatch(name) else Stub, name)",
        new="(__import__('pydoc').locate(name) or Stub, name)",
        test=f"{_MODEL}ckpt_file.py::test_a_stub_does_nothing",
    ),
    "SSIM window": Mutation(
        file="vidtok_model/metrics/frames.py",
        old="_WINDOW_SIZE = 11",
        new="_WINDOW_SIZE = 9",
        test=f"{_MODEL}metrics.py::test_ssim_agrees_with_torchmetrics",
    ),
    "FVD trace": Mutation(
        file="vidtok_model/metrics/frechet.py",
        old="- 2 * root_of_product.sum()",
        new="- root_of_product.sum()",
        test=f"{_MODEL}fvd.py::test_frechet_distance_of_gaussians_is_the_closed_form",
    ),
}


def survives(mutation: Mutation, folder: Path) -> str | None:
    """Makes a fault in a copy in `folder`; None where its test saw it, else what happened."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    file = copy / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        return f"{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times, expected once"
    file.write_text(text.replace(mutation.old, mutation.new))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", mutation.test]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    shutil.rmtree(copy)
    name = re.escape(mutation.test.partition("::")[2])
    if done.returncode == 1 and re.search(rf"^FAILED .*::{name}\b", done.stdout, re.MULTILINE):
        return None
    return f"{mutation.test} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-500:]}"


def main() -> None:
    """Makes those that are asked for, or all."""
    survivors = 0
    for name in sys.argv[1:] or MUTATIONS:
        with tempfile.TemporaryDirectory() as folder:
            problem = survives(MUTATIONS[name], Path(folder))
        print(f"{name}: {'seen by ' + MUTATIONS[name].test if problem is None else problem}", flush=True)
        survivors += problem is not None
    sys.exit(min(survivors, 1))


if __name__ == "__main__":
    main()
