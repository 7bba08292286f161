"""The mechanism that keeps a test from skipping itself unseen is itself seen to work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import KNOWN, ROOT, require, require_module, required_names


@pytest.fixture(autouse=True)
def nothing_required(monkeypatch):
    monkeypatch.delenv("VIDTOK_REQUIRE", raising=False)


def test_what_is_there_goes_on(monkeypatch):
    monkeypatch.setenv("VIDTOK_REQUIRE", "moto")
    require("moto", True, "unused")
    assert require_module("moto").__name__ == "moto"


def test_what_is_missing_skips():
    with pytest.raises(pytest.skip.Exception, match=r"needs ceph \(.*\): no radosgw"):
        require("ceph", False, "no radosgw")


def test_what_is_missing_and_required_fails(monkeypatch):
    monkeypatch.setenv("VIDTOK_REQUIRE", "moto, ceph")
    with pytest.raises(pytest.fail.Exception, match="VIDTOK_REQUIRE names ceph, but: no radosgw"):
        require("ceph", False, "no radosgw")
    with pytest.raises(pytest.skip.Exception):  # only what is named
        require("localbucket", False, "not installed")


def test_a_missing_module_skips_or_fails(monkeypatch):
    monkeypatch.setitem(KNOWN, "no_such_module", "a module nobody has")
    with pytest.raises(pytest.skip.Exception, match="no module no_such_module"):
        require_module("no_such_module")
    monkeypatch.setenv("VIDTOK_REQUIRE", "no_such_module")
    with pytest.raises(pytest.fail.Exception, match="no module no_such_module"):
        require_module("no_such_module")


def test_a_broken_module_is_not_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "broken_module.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KNOWN, "broken_module", "a module that does not import")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        require_module("broken_module")


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"'polar'.*KNOWN"):
        require("polar", True, "misspelt")
    monkeypatch.setenv("VIDTOK_REQUIRE", "moto,polar")
    with pytest.raises(pytest.UsageError, match=r"VIDTOK_REQUIRE names polar; expected some of: .*polars"):
        required_names()


# What a run of pytest says of a file that asks at its top, and of a test that asks.
_FILE = 'from tests.support import require\nrequire("ceph", False, "none")\n\ndef test(): pass\n'
_TEST = 'from tests.support import require\n\ndef test(): require("ceph", False, "none")\n'


@pytest.mark.parametrize(
    ("source", "required", "exit_code", "summary"),
    [
        (_TEST, "", 0, "1 skipped"),
        (_TEST, "ceph", 1, "1 failed"),
        (_FILE, "", 5, "1 skipped"),  # 5: pytest's "no tests ran"
        (_FILE, "ceph", 2, "1 error"),
        (_TEST, "cehp", 4, "VIDTOK_REQUIRE names cehp"),
    ],
)
def test_a_run_of_pytest(tmp_path: Path, source, required, exit_code, summary):
    # conftest.py applies to files below tests/ only, and these must not stand there: it is named as a plugin.
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "test_it.py"]
    environment = {**os.environ, "VIDTOK_REQUIRE": required, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == exit_code, run.stdout + run.stderr
    assert summary in run.stdout + run.stderr
