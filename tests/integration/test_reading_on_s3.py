"""Reading to train from an S3 server, in this process and in workers that were forked from it."""

from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline import TokenDataset, TokenLoader
from pipeline.errors import StorageError
from pipeline.reading.parts import CorruptPart
from tests.rows_for_tests import made_rows


def items(dataset: Any, num_workers: int) -> list[Any]:
    return [(batch["id"], batch["tokens"].tolist()) for batch in TokenLoader(dataset, num_workers=num_workers)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_a_dataset_on_s3_is_the_local_one(
    s3_endpoint: str, bucket: str, tmp_path: Path, num_workers: int, cached: bool
) -> None:
    made_rows(tmp_path / "local")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    prefix = f"reading-{num_workers}-{cached}"
    for path in (tmp_path / "local").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(tmp_path / 'local')}")
    options: Any = {"batch_size": 5, "storage": {"endpoint_url": s3_endpoint}}
    options["cache_dir"] = tmp_path / "cache" if cached else None
    dataset = TokenDataset(f"s3://{bucket}/{prefix}", **options)
    next(iter(dataset))  # connections and threads of this process, which a fork takes along
    expected = items(TokenDataset(tmp_path / "local", batch_size=5), 0)
    for _ in range(2):
        assert items(dataset, num_workers) == expected
    gone = sorted(path.name for path in (tmp_path / "local/data").iterdir())[0]
    client.delete_object(Bucket=bucket, Key=f"{prefix}/data/{gone}")
    if cached:
        assert items(dataset, num_workers) == expected
    else:
        with pytest.raises(CorruptPart, match=rf"data/{gone}, row group 0: cannot be read: NotWhole"):
            items(TokenDataset(f"s3://{bucket}/{prefix}", **options), num_workers)


def test_a_store_that_fails_is_no_corrupt_part(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    """It is not skipped: another try may find all rows."""
    made_rows(tmp_path)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"failing/{path.relative_to(tmp_path)}")
    dataset = TokenDataset(
        f"s3://{bucket}/failing", on_corrupt="skip", storage={"endpoint_url": s3_endpoint, "retry_seconds": 1}
    )
    filesystem = dataset.source.dataset.store._filesystem
    dataset.source.dataset.store._filesystem = _Failing(filesystem)
    with pytest.raises(StorageError, match=r"cannot read .*: OSError: throttled") as raised:
        next(iter(dataset))
    assert not isinstance(raised.value, CorruptPart)


class _Failing:
    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        raise OSError("throttled")
