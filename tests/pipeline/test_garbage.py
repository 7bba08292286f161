"""gc takes what can never be committed, when told, and nothing that somebody may yet go on from."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.garbage import collect_garbage
from pipeline.job import run_job
from pipeline.removal import remove_videos
from pipeline.rewriting import rewrite_parts
from pipeline.runs import announced
from pipeline.shard_log import ShardLog, read_commit
from pipeline.storage import Store
from tests.made_dataset import check, config_of, dataset_of, pack_input, parts, source


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A whole dataset."""
    pack_input(tmp_path)
    run_job(config_of(tmp_path))
    return tmp_path


class Died(Exception):
    """This run's process."""


def die(_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset whose only run died, minutes ago, between the look at its parts and the first shard's commit."""
    pack_input(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ShardLog, "_record", die)
        with pytest.raises(KeyboardInterrupt):
            run_job(config_of(tmp_path))
    assert len(parts(tmp_path)) == 2
    return tmp_path


def found(folder: Path, **options: Any) -> list[str]:
    return [info.path for info in collect_garbage(dataset_of(folder), **options)]


def test_it_takes_what_nobody_will_name_and_only_when_told(made: Path) -> None:
    stray = made / "out/data/other-0123456789-p000.parquet"
    shutil.copy(parts(made)[0], stray)
    extra = parts(made)[1].with_name(parts(made)[1].name.replace("p001", "p007"))
    shutil.copy(parts(made)[1], extra)
    (made / "out/_tmp/left").write_bytes(b"x")
    expected = [f"data/{extra.name}", f"data/{stray.name}", "_tmp/left"]
    assert found(made, remove=False) == expected
    said = [f"{path}: no commit names it, and none will; gc removes it" for path in expected[:2]]
    assert check(made).problems == said
    assert found(made, remove=True) == expected
    assert found(made, remove=True) == [] and check(made, deep=True, source=source(made)).problems == []


def test_a_file_of_another_name_is_told_and_left(made: Path) -> None:
    """It is somebody's own, whatever it holds and wherever below data/ and rejects/ it lies."""
    part = parts(made)[0]
    names = [f"data/{part.stem}.crc", f"data/sub/{part.name}", "data/table-p000.parquet"]
    names += ["rejects/notes.parquet", "rejects/sub/deeper/notes.md"]
    for name in names:
        (made / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, made / "out" / name)
    assert found(made, remove=True) == []
    assert check(made).problems == [
        f"{name}: no commit names it, and no run writes such names; gc leaves it" for name in sorted(names)
    ]


def test_it_leaves_a_shard_that_a_slow_run_may_yet_commit(broken_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc runs in full between a worker's last look at its parts and its commit, and the commit is whole."""
    real = ShardLog._record

    def record(log: ShardLog) -> dict[str, Any]:
        assert found(broken_off, remove=True) == []
        return real(log)

    monkeypatch.setattr(ShardLog, "_record", record)
    assert not run_job(config_of(broken_off)).failures
    assert check(broken_off, deep=True, source=source(broken_off)).problems == []


def test_what_is_unfinished_is_said_where_no_run_is_alive(broken_off: Path) -> None:
    lines = [line for line in check(broken_off).problems if "the next run goes on from it" in line]
    assert len(lines) == 2
    with announced(dataset_of(broken_off).store):
        assert check(broken_off).problems == [], "the run may own it"


def test_a_shard_can_be_begun_anew(broken_off: Path) -> None:
    """Where a part was lost, a run meets the ones behind it, and says what to do."""
    first = parts(broken_off)[0]
    shard = first.name.removesuffix("-p000.parquet")
    first.unlink()
    # Parts of another size, so that the new one does not end where the lost one did.
    config = config_of(broken_off, rows={"part_bytes": 10_000})
    (failure, *_) = run_job(config).failures
    assert f"`vidtok gc --shard {shard} --remove` removes all of the shard" in failure.error
    last_first = [f"data/{shard}-p001.parquet", f"data/{shard}-p000.parquet"]
    assert found(broken_off, remove=False, shard=shard) == found(broken_off, remove=True, shard=shard) == last_first
    assert not run_job(config).failures
    assert check(broken_off, deep=True, source=source(broken_off)).problems == []


def test_removal_that_breaks_off_leaves_what_a_run_goes_on_from(broken_off: Path, monkeypatch: Any) -> None:
    shard = parts(broken_off)[0].name.removesuffix("-p000.parquet")
    real = Store.delete
    gone: list[str] = []

    def delete(store: Store, path: str) -> None:
        if gone:
            raise Died
        real(store, path)
        gone.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", delete)
        with pytest.raises(Died):
            found(broken_off, remove=True, shard=shard)
    assert gone == [f"data/{shard}-p001.parquet"]
    assert not run_job(config_of(broken_off)).failures
    assert check(broken_off, deep=True, source=source(broken_off)).problems == []


def test_what_cannot_be_begun_anew(made: Path) -> None:
    committed = parts(made)[0].name.removesuffix("-p000.parquet")
    for shard in (committed, "no-such-shard"):
        with pytest.raises(ConfigError, match=f"{shard}: is no shard with parts and without a commit"):
            found(made, remove=True, shard=shard)
    with announced(dataset_of(made).store), pytest.raises(ConfigError, match="a run is alive"):
        found(made, remove=True, shard=committed)
    assert check(made, deep=True).problems == []


def test_a_list_of_shards_that_was_lost_makes_no_garbage(made: Path) -> None:
    """Its shards' commits are there, so what they name is not given up."""
    run_job(config_of(made))
    (made / "in/2.tar").write_bytes((made / "in/1.tar").read_bytes())
    run_job(config_of(made), append=True)
    (made / "out/inputs/00001.parquet").unlink()
    with pytest.raises(ConfigError, match=r"inputs/ has no shard 2-.*, which is committed"):
        found(made, remove=True)


def test_a_list_of_shards_that_is_missing_between_others_makes_none(made: Path) -> None:
    """Nobody reads the lists behind it, and a run may be at work on their shards."""
    for number in (1, 2):
        (made / f"in/{number + 1}.tar").write_bytes((made / "in/1.tar").read_bytes())
        run_job(config_of(made), append=True)
    for path in (made / "out/_commits").glob("[23]-*.json"):
        path.unlink()
    shutil.rmtree(made / "out/_snapshots")
    (made / "out/inputs/00001.parquet").unlink()
    before = parts(made)
    with pytest.raises(ConfigError, match=r"inputs/00001\.parquet is not there, so nobody knows whose the parts are"):
        found(made, remove=True)
    assert parts(made) == before


def test_rejects_of_another_parquet_version_are_the_same(broken_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that died after it put them, and goes on after an upgrade."""
    import pipeline.shard_log as module

    real = module.rejects_bytes
    monkeypatch.setattr(module, "rejects_bytes", lambda rejects: real(rejects).replace(b"parquet-cpp", b"parquet-old"))
    config = config_of(broken_off)
    with monkeypatch.context() as patch:
        put = Store.put_if_absent
        patch.setattr(
            Store,
            "put_if_absent",
            lambda store, path, data: (
                (_ for _ in ()).throw(KeyboardInterrupt) if path.startswith("_commits/") else put(store, path, data)
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            run_job(config)
    monkeypatch.setattr(module, "rejects_bytes", real)
    (standing,) = (broken_off / "out/rejects").iterdir()
    assert b"parquet-old" in standing.read_bytes() and standing.read_bytes() != real([])
    assert not run_job(config).failures
    assert check(broken_off, deep=True, source=source(broken_off)).problems == []
    assert b"parquet-old" in standing.read_bytes()


def test_other_rejects_are_a_conflict(broken_off: Path) -> None:
    shard = parts(broken_off)[0].name.removesuffix("-p000.parquet")
    (broken_off / "out/rejects").mkdir()
    (broken_off / f"out/rejects/{shard}.parquet").write_bytes(b"PAR1")
    (failure,) = run_job(config_of(broken_off)).failures
    assert "other rejects than those of the parts' footers" in failure.error


def test_who_comes_back_after_a_takedown_changes_nothing(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An attempt that had not seen the commit reads parts from which removed rows were erased meanwhile."""
    dataset = dataset_of(made)
    remove_videos(dataset, ["a"])
    assert len(list(rewrite_parts(dataset, remove=True))) == 2
    before = {path: path.read_bytes() for path in [*parts(made), *(made / "out/_commits").iterdir()]}
    for shard in dataset.inputs():
        provenance = {"fingerprint": dataset.description["fingerprint"]}
        log = ShardLog(dataset.store, shard, schema=pa.schema([]), provenance=provenance, attempt_id="b" * 32)
        assert log.commit() == read_commit(dataset.store, shard.shard_id)
    assert {path: path.read_bytes() for path in before} == before
    assert found(made, remove=True) == [] and check(made, deep=True, source=source(made)).problems == []


def test_a_rewrite_keeps_away_from_what_is_not_committed(broken_off: Path) -> None:
    """Its rows are no rows yet: a key is removed of what is there."""
    with pytest.raises(ConfigError, match="no committed row"):
        remove_videos(dataset_of(broken_off), ["a"])
    before = [path.read_bytes() for path in parts(broken_off)]
    assert list(rewrite_parts(dataset_of(broken_off), remove=True)) == []
    assert [path.read_bytes() for path in parts(broken_off)] == before
    assert not run_job(config_of(broken_off)).failures
    assert remove_videos(dataset_of(broken_off), ["a"]).videos == 2
