"""Patterns become the same list of shards wherever the input lies."""

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.input_config import InputConfig
from pipeline.records import Shard
from pipeline.shards import input_root, list_shards, relative_patterns

FILES = ["0.tar", "1.tar", "2.tar.gz", "README.md", "b/0.tar", "b/c/3.tgz", "b/0.parquet", "bc/4.tar"]
TARS = ["0.tar", "1.tar", "2.tar.gz", "b/0.tar", "b/c/3.tgz", "bc/4.tar"]


def tars(patterns: str | list[str] | tuple[str, ...]) -> InputConfig:
    return InputConfig(shards=patterns if isinstance(patterns, str) else list(patterns))


Listing = Callable[..., list[Shard]]


@pytest.fixture(scope="module", params=["local", "s3"])
def listing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listing]:
    """Lists patterns below a folder that holds FILES."""
    if request.param == "local":
        folder, options = str(tmp_path_factory.mktemp("list") / "in"), {}
        for name in FILES:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    else:
        import boto3

        endpoint, bucket = request.getfixturevalue("s3_endpoint"), request.getfixturevalue("bucket")
        client = boto3.client("s3", endpoint_url=endpoint)
        for name in FILES:
            client.put_object(Bucket=bucket, Key=f"list/in/{name}", Body=name.encode())
        folder, options = f"s3://{bucket}/list/in", {"endpoint_url": endpoint}

    def call(*patterns: str) -> list[Shard]:
        full = [f"{folder}{pattern}" for pattern in patterns]
        return list_shards(tars(full if len(full) > 1 else full[0]), options)

    yield call


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["/1.tar"], ["1.tar"]),
        (["/{0..1}.tar"], ["0.tar", "1.tar"]),
        (["/{1,0}.tar"], ["0.tar", "1.tar"]),
        (["/*.tar"], ["0.tar", "1.tar"]),
        (["/?.tar"], ["0.tar", "1.tar"]),
        (["/[1-9].tar*"], ["1.tar", "2.tar.gz"]),
        (["/*"], ["0.tar", "1.tar", "2.tar.gz"]),  # neither the README nor what lies in folders
        (["/**"], TARS),
        (["/*/*.tar"], ["b/0.tar", "bc/4.tar"]),
        (["/{b,bc}/*.tar"], ["b/0.tar", "bc/4.tar"]),
        (["/{b,bc}"], ["b/0.tar", "b/c/3.tgz", "bc/4.tar"]),
        ([""], TARS),
        (["/"], TARS),
        (["/b"], ["0.tar", "c/3.tgz"]),  # not bc/, which begins alike
        (["/b/"], ["0.tar", "c/3.tgz"]),
        (["/b", "/0.tar"], ["0.tar", "b/0.tar", "b/c/3.tgz"]),
        (["/", "/*.tar", "/{0..1}.tar", "/0.tar", "/b/"], TARS),
    ],
)
def test_patterns(listing: Listing, patterns: list[str], expected: list[str]) -> None:
    shards = listing(*patterns)
    assert [shard.path for shard in shards] == expected
    if patterns == ["/"]:
        assert [shard.size_bytes for shard in shards] == [len(name) for name in TARS]


def test_missing_tars_are_named_all_at_once(listing: Listing) -> None:
    with pytest.raises(ConfigError) as caught:
        listing("/{0..3}.tar", "/b/{0..1}.tar")
    assert [line.rpartition("/in/")[2] for line in caught.value.problems] == [
        "2.tar: there is no such tar",
        "3.tar: there is no such tar",
        "b/1.tar: there is no such tar",
    ]


@pytest.mark.parametrize("pattern", ["/x*.tar", "/nothing/", "/nothing", "/README.md", "/?.zip"])
def test_nothing_matches(listing: Listing, pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"/in{pattern} (expected .tar, .tar.gz, .tgz files)")):
        listing(pattern)


def test_an_unclosed_brace(listing: Listing) -> None:
    with pytest.raises(ConfigError, match=re.escape("/in/{0,1.tar: a brace is not closed")):
        listing("/{0,1.tar")


def test_ids_are_unique_and_safe_as_file_names(tmp_path: Path) -> None:
    names = [
        "0.tar",
        "a/0.tar",
        "a b.tar",
        "ä ö.tar",
        "..tar",
        "--x.tgz",
        "x" * 200 + ".tar",
        "s~retry1.tar",
        "p:q?.tar",
    ]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    shards = list_shards(tars(str(tmp_path / "in")))
    assert sorted(shard.path for shard in shards) == sorted(names)
    ids = [shard.shard_id for shard in shards]
    assert len(set(map(str.lower, ids))) == len(names)
    assert [shard_id for shard_id in ids if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{9,99}", shard_id)] == []
    # The same folder elsewhere, however it is written, is the same input.
    shutil.move(tmp_path / "in", tmp_path / "moved elsewhere")
    for pattern in ("moved elsewhere", "moved elsewhere/", "moved elsewhere/**", "moved elsewhere/**/*.t*"):
        assert list_shards(tars(f"{tmp_path}/{pattern}")) == shards


def test_the_id_is_pinned(tmp_path: Path) -> None:
    """Commits of standing datasets carry it: a name, and what `printf 000.tar | sha256sum` begins with."""
    (tmp_path / "000.tar").touch()
    (shard,) = list_shards(tars(str(tmp_path)))
    assert shard.shard_id == "000-fad71ac946"


def test_a_link_to_a_tar_is_a_tar(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"12345")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").symlink_to(tmp_path / "real.bin")
    (tmp_path / "in/1.tar").symlink_to(tmp_path / "gone")
    (tmp_path / "in/2.tar").mkdir()
    for pattern in ("in", "in/*.tar", "in/0.tar"):
        assert [(shard.path, shard.size_bytes) for shard in list_shards(tars(f"{tmp_path}/{pattern}"))] == [
            ("0.tar", 5)
        ]


@pytest.mark.parametrize(
    ("patterns", "root"),
    [
        ("/a/b/0.tar", "/a/b"),
        ("/a/b/", "/a/b"),
        ("/a/b", "/a/b"),
        ("/a/b/{0..9}.tar", "/a/b"),
        ("/a/b/*/0.tar", "/a/b"),
        ("/a/b*/0.tar", "/a"),
        ("/a/{b,c}/0.tar", "/a"),
        ("/0.tar", "/"),
        (["/a/b/0.tar", "/a/b/1.tar"], "/a/b"),
        (["/a/b/0.tar", "/a/bc/1.tar"], "/a"),
        (["/a/b/c/0.tar", "/a/b"], "/a/b"),
        (["/a/0.tar", "/b/0.tar"], "/"),
        ("s3://bucket/0.tar", "s3://bucket"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("s3://bucket/{a,b}/", "s3://bucket"),
        (["s3://bucket/a/0.tar", "s3://bucket/a/b/*.tar"], "s3://bucket/a"),
    ],
)
def test_the_root(patterns: str | list[str], root: str) -> None:
    assert input_root(tars(patterns)) == root
    orders = [patterns] if isinstance(patterns, str) else itertools.permutations(patterns)
    assert {input_root(tars(order)) for order in orders} == {root}


@pytest.mark.parametrize(
    "patterns",
    [["s3://a/0.tar", "s3://b/0.tar"], ["s3://a/0.tar", "/b/0.tar"], ["/b/0.tar", "s3://a/0.tar"], "s3://*/0.tar"],
)
def test_inputs_without_a_common_root(patterns: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"s3://.*no folder in common"):
        input_root(tars(patterns))


def test_patterns_below_the_root() -> None:
    assert relative_patterns(tars("s3://bucket/in/{0..9}.tar")) == relative_patterns(tars("/somewhere/in/{0..9}.tar"))
    assert relative_patterns(tars(["/a/0.tar", "/a/b/*"])) != relative_patterns(tars(["/a/0.tar", "/a/c/*"]))


def test_tars_of_two_top_level_folders(tmp_path: Path) -> None:
    """Their common root is that of the file system."""
    (tmp_path / "0.tar").write_bytes(b"x")
    other = Path("/dev/shm") / f"vidtok-test-{os.getpid()}.tar"
    other.write_bytes(b"yy")
    try:
        shards = list_shards(tars([str(tmp_path / "0.tar"), str(other)]))
    finally:
        other.unlink()
    assert [(shard.path, shard.size_bytes) for shard in shards] == [
        (str(other)[1:], 2),
        (str(tmp_path / "0.tar")[1:], 1),
    ]


@pytest.mark.parametrize("pattern", ["", "/", "/x", "/0.tar", "/{0..3}.tar", "/*.tar", "/**/*.tar"])
def test_a_missing_bucket_is_told(s3_endpoint: str, pattern: str) -> None:
    with pytest.raises(StorageError, match=r"s3://nobucket.*bucket does not exist"):
        list_shards(tars(f"s3://nobucket{pattern}"), {"endpoint_url": s3_endpoint})


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ok.tar").touch()
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.tar")).touch()
    with pytest.raises(ConfigError, match=r"'caf\\udce9\.tar': the name of a tar must be printable UTF-8"):
        list_shards(tars(str(tmp_path)))
