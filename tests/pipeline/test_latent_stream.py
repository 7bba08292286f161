"""LatentStream: latents as they were stored but normalised, drawn anew in each epoch, and the same on resume."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import LatentStream, TokenLoader
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.storage import open_store
from tests.rows_for_tests import made_rows

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")

MODEL = "vidtok_kl_causal_488_4chn"
SHAPES = [(3, 3, 4), (1, 2, 2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 rows of two shapes."""
    folder = tmp_path_factory.mktemp("latents")
    made_rows(folder, model=MODEL, grids=SHAPES, logvar=True)
    return folder


def stored(root: Path) -> dict[str, dict[str, Any]]:
    """All rows, with their latents as float64 (C, T, H, W), by id."""
    dataset = Dataset.open(open_store(str(root)))
    rows = [row for path in dataset.parts() for row in pq.read_table(root / path).to_pylist()]
    for row in rows:
        shape = (4, row["latent_t"], row["latent_h"], row["latent_w"])
        for name in ("latents", "logvar"):
            row[name] = np.frombuffer(row[name], "<f2").astype(np.float64).reshape(shape)
    return {row["id"]: row for row in rows}


def means_and_deviations(rows: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    """Of first latent frames and of the rest, (2, C) each, from the rows."""
    first = np.concatenate([row["latents"][:, 0].reshape(4, -1) for row in rows.values()], axis=1)
    rest = np.concatenate([row["latents"][:, 1:].reshape(4, -1) for row in rows.values()], axis=1)
    return np.stack([first.mean(1), rest.mean(1)]), np.stack([first.std(1), rest.std(1)])


def equal(left: Any, right: Any) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for one, other in zip(left, right, strict=True)
        for name, value in one.items()
    )


def test_latents_are_normalised_frame_by_frame(root: Path) -> None:
    rows = stored(root)
    mean, std = means_and_deviations(rows)
    stream = LatentStream(root, batch_size=4, logvar=True, first_frame=True)
    seen = []
    for batch in stream:
        for number, row_id in enumerate(batch["id"]):
            row = rows[row_id]
            frames = row["latents"].shape[1]
            kind = [0] + [1] * (frames - 1)
            m, s = (values[kind].T[:, :, None, None] for values in (mean, std))
            expected = (row["latents"] - m) / s
            np.testing.assert_allclose(batch["latents"][number].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(batch["first_latents"][number].numpy(), expected[:, :1], atol=1e-5)
            np.testing.assert_allclose(batch["logvar"][number].numpy(), row["logvar"] - 2 * np.log(s), atol=1e-5)
            assert batch["sizes"][number].tolist() == [48, 64, 16, 16] and batch["caption"][number] == row["caption"]
        restored = stream.normalization.restored(batch["latents"])
        assert torch.allclose(
            restored, torch.tensor(np.stack([rows[row_id]["latents"] for row_id in batch["id"]])).float(), atol=1e-5
        )
        seen += batch["id"]
    assert sorted(seen) == sorted(rows)
    values = torch.cat([batch["latents"][:, :, 1:].transpose(0, 1).flatten(1) for batch in stream], dim=1)
    assert torch.allclose(values.mean(1), torch.zeros(4), atol=1e-5) and torch.allclose(
        values.std(1, correction=0), torch.ones(4), atol=1e-5
    )


def test_all_ranks_have_one_shape_at_a_time(root: Path) -> None:
    ranks = [list(LatentStream(root, batch_size=3, rank=rank, world_size=4, lanes=4)) for rank in range(4)]
    shapes = [{tuple(batch["latents"].shape[2:]) for batch in step} for step in zip(*ranks, strict=True)]
    assert all(len(step) == 1 for step in shapes[: 2 * (12 // 4)])
    assert len(set.union(*shapes)) == 2


def test_samples_are_drawn_from_the_posterior(root: Path) -> None:
    """Over 400 epochs the mean and the variance of each value are the posterior's."""
    rows = stored(root)
    stream = LatentStream(root, batch_size=72, sample=True, normalize=False)
    drawn: dict[str, list[Any]] = {row_id: [] for row_id in rows}
    for epoch in range(400):
        stream.set_epoch(epoch)
        for batch in stream:
            for number, row_id in enumerate(batch["id"]):
                drawn[row_id].append(batch["latents"][number].double().numpy())
    z = np.concatenate(
        [
            ((np.stack(values) - rows[row_id]["latents"]) / np.exp(0.5 * rows[row_id]["logvar"])).reshape(400, -1)
            for row_id, values in drawn.items()
        ],
        axis=1,
    )
    assert abs(z.mean()) < 5 / np.sqrt(z.size) and abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert np.abs(z.mean(0)).max() < 5.5 / np.sqrt(400), "each value by itself"


def test_what_is_drawn_is_the_same_on_resume_and_fresh_in_each_epoch(root: Path) -> None:
    options: Any = {"batch_size": 5, "sample": True, "drop_captions": 0.5, "seed": 3}
    whole = list(LatentStream(root, **options))
    assert equal(LatentStream(root, **options), whole)
    other = LatentStream(root, **options)
    other.set_epoch(1)
    latents = {row_id: latent for batch in whole for row_id, latent in zip(batch["id"], batch["latents"], strict=True)}
    assert not any(
        torch.equal(latents[row_id], latent)
        for batch in other
        for row_id, latent in zip(batch["id"], batch["latents"], strict=True)
    )
    for num_workers, stop in ((0, 4), (3, 7), (1, 11)):
        loader = TokenLoader(LatentStream(root, **options), num_workers=num_workers)
        found = list(itertools.islice(loader, stop))
        resumed = TokenLoader(LatentStream(root, **options), num_workers=3 - num_workers)
        resumed.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
        assert equal(found + list(resumed), whole)


def test_it_goes_on_with_other_ranks_after_every_batch(root: Path) -> None:
    """1 rank up to each batch, then 4 ranks for a step, then 2."""
    options: Any = {"batch_size": 3, "sample": True, "seed": 3}
    whole = list(LatentStream(root, **options))
    for stop in range(len(whole) - 4 - 2 + 1):
        found: list[Any] = []
        state = None
        for world_size, steps in ((1, stop), (4, 1), (2, 1)):
            ranks = [LatentStream(root, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
            loaders = [TokenLoader(rank) for rank in ranks]
            for loader in loaders:
                if state is not None:
                    loader.load_state_dict(state)
            taken = [list(itertools.islice(loader, steps)) for loader in loaders]
            found += [batch for step in zip(*taken, strict=True) for batch in step]
            state = loaders[0].state_dict()
        assert equal(found, whole[: stop + 4 + 2]), stop


def test_captions_are_dropped(root: Path) -> None:
    captions = [
        caption
        for epoch in range(30)
        for batch in LatentStream(root, batch_size=12, drop_captions=0.2, epoch=epoch)
        for caption in batch["caption"]
    ]
    share = captions.count("") / len(captions)
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / len(captions))


def test_columns_that_are_asked_for_stay(root: Path) -> None:
    batch = LatentStream(root, batch_size=3, columns=["height", "source_key"])[0]
    assert batch["height"].tolist() == [16] * 3 and len(batch["source_key"]) == 3
    assert set(batch) == {"id", "caption", "height", "source_key", "latents", "sizes"}
    assert "logvar" in LatentStream(root, batch_size=3, columns=["logvar"])[0]


def test_statistics_are_those_of_the_snapshot(tmp_path: Path) -> None:
    made_rows(tmp_path, shards=1, model=MODEL)
    before = LatentStream(tmp_path, batch_size=4)
    made_rows(tmp_path, shards=2, first_shard=1, model=MODEL)
    after = LatentStream(tmp_path, batch_size=4)
    assert not torch.equal(before.normalization.mean_2C, after.normalization.mean_2C)
    after.load_state_dict(before.state_dict())
    assert torch.equal(before.normalization.mean_2C, after.normalization.mean_2C)
    assert equal(after, before)


def test_what_makes_no_sense_is_named(root: Path, tmp_path: Path) -> None:
    made_rows(tmp_path / "tokens", shards=1)
    made_rows(tmp_path / "plain", shards=1, model=MODEL)
    with pytest.raises(ConfigError, match="holds tokens of vidtok_fsq_causal_488_4096: see TokenStream"):
        LatentStream(tmp_path / "tokens", batch_size=2)
    with pytest.raises(ConfigError, match="columns: there is no 'logvar'"):
        LatentStream(tmp_path / "plain", batch_size=2, sample=True)
    with pytest.raises(ConfigError, match="drop_captions 2: expected from 0 to 1"):
        LatentStream(root, batch_size=2, drop_captions=2)
