"""LatentStream: a dataset of latents as a diffusion model trains on them.

Legend of shapes: B rows of a batch, C channels, T latent frames, H and W rows and columns of the latent grid.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.reading.normalization import LatentNormalization
from pipeline.reading.order import hashed
from pipeline.reading.rows import CorruptPolicy
from pipeline.reading.token_dataset import TokenDataset
from pipeline.rows import SEGMENT_COLUMN
from pipeline.storage import open_store
from vidtok_model import TokenizerConfig

__all__ = ["LatentStream"]

Item = dict[str, Any]

_SIZES = ("source_height", "source_width", "height", "width")
_NOISE, _DROP = 4, 5  # keys of what is drawn, beside those of order.py


class LatentStream(IterableDataset[Item]):
    """Batches of latents of one shape, normalised, with what they are conditioned on; shapes come in the order's turns.

        latents        float32 (B, C, T, H, W)
        logvar         float32 (B, C, T, H, W)   with `logvar`: the posterior's, of the normalised latents
        first_latents  float32 (B, C, 1, H, W)   with `first_frame`: the first latent frame, to go on from
        caption        list of str; "" where there is none, or where it was dropped
        sizes          int32 (B, 4)              height and width of the source, and of the encoded frames
        id             list of str
        others         as `columns` names them

    The order, ranks, workers and states are TokenDataset's. What is drawn (`sample`, `drop_captions`) depends on seed,
    epoch and the batch's number alone, so it is fresh in each epoch, and the same where a training goes on.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        batch_size: int,
        normalize: bool = True,
        sample: bool = False,
        logvar: bool = False,
        first_frame: bool = False,
        drop_captions: float = 0.0,
        columns: Sequence[str] = (),
        snapshot: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        lanes: int = 8,
        drop_last: bool = False,
        split: str | None = None,
        on_corrupt: CorruptPolicy = "raise",
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 64 * 2**30,
        read_ahead: int = 2,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens a dataset of latents.

        Args:
            root: the dataset's root, a path or a URL of any store.
            batch_size: rows of a batch.
            normalize: to mean 0 and deviation 1 of each channel over the snapshot, the first latent frame by its own
                statistics; `normalization` undoes it.
            sample: draw from the posterior each time in place of its mean; the dataset must hold the log-variance.
            logvar: give the log-variance too.
            first_frame: give the first latent frame by itself too.
            drop_captions: share of captions that are left out, for classifier-free guidance.
            columns: more columns.
            snapshot: see TokenDataset, as are all that follow.
            seed: of the order, and of what is drawn.
            epoch: see `set_epoch`.
            rank: of this process among `world_size`.
            world_size: how many processes share an epoch.
            shuffle: False: rows come as they were written.
            lanes: from so many row groups rows are taken in turns. All ranks have the same shape at a time where their
                number divides it.
            drop_last: leave out rows that fill no batch, and batches that are not enough for all ranks.
            split: `train` or `validation`.
            on_corrupt: `raise` or `skip`.
            cache_dir: for row groups on a local disk.
            cache_bytes: how large that may grow.
            read_ahead: row groups that are read before they are needed.
            storage: of the store.

        Raises:
            ConfigError: there is no such dataset, it holds tokens, has no log-variance, or an argument makes no sense.
            StorageError: the store failed.
        """
        super().__init__()
        if not 0 <= drop_captions <= 1:
            raise ConfigError(f"drop_captions {drop_captions}: expected from 0 to 1")
        logvar = logvar or "logvar" in columns
        self._normalize, self._sample, self._logvar = normalize, sample, logvar
        self._first_frame, self._drop_captions = first_frame, drop_captions
        dataset = Dataset.open(open_store(str(root), dict(storage or {})))
        if TokenizerConfig.from_dict(dataset.description["model"]["config"]).is_discrete:
            raise ConfigError(f"{root}: holds tokens of {dataset.description['model']['name']}: see TokenStream")
        segment = (SEGMENT_COLUMN,) if SEGMENT_COLUMN in dataset.schema.names else ()
        needed = ("id", "caption", *_SIZES, *segment, *(("logvar",) if sample or logvar else ()))
        self._asked = set(columns)
        self.rows = TokenDataset(
            root,
            snapshot=snapshot,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            columns=tuple(dict.fromkeys((*needed, *columns))),
            batch_size=batch_size,
            shuffle=shuffle,
            lanes=lanes,
            drop_last=drop_last,
            split=split,
            on_corrupt=on_corrupt,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            read_ahead=read_ahead,
            storage=storage,
            transform=self._prepared,
        )
        self.normalization = self._statistics()

    def _statistics(self) -> LatentNormalization:
        statistics = self.rows.source.index.statistics
        if statistics is None:
            raise ConfigError(f"snapshot {self.rows.snapshot} has no latents")
        return LatentNormalization.of(statistics)

    def _prepared(self, batch: Item, number: int) -> Item:
        latents = batch.pop("latents").float()
        logvar = batch.pop("logvar").float() if "logvar" in batch else None
        segments = batch.get(SEGMENT_COLUMN)
        is_first = torch.ones(len(latents), dtype=torch.bool) if segments is None else segments == 0
        if SEGMENT_COLUMN not in self._asked:
            batch.pop(SEGMENT_COLUMN, None)
        if self._sample and logvar is not None:
            noise = torch.randn(latents.shape, generator=self._generator(_NOISE, number))
            latents += torch.exp(0.5 * logvar) * noise
        if self._normalize:
            latents = self.normalization.normalized(latents, is_first)
            logvar = None if logvar is None else self.normalization.normalized_logvar(logvar, is_first)
        kept = torch.rand(len(latents), generator=self._generator(_DROP, number)) >= self._drop_captions
        sizes = [batch[name] if name in self._asked else batch.pop(name) for name in _SIZES]
        prepared = {
            **batch,
            "latents": latents,
            "caption": [text or "" if keep else "" for text, keep in zip(batch["caption"], kept.tolist(), strict=True)],
            "sizes": torch.stack(sizes, dim=1),
        }
        if self._logvar:
            prepared["logvar"] = logvar
        if self._first_frame:
            prepared["first_latents"] = latents[:, :, :1].clone()
        return prepared

    def _generator(self, kind: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(hashed(self.rows.seed, self.rows.epoch, kind, number) >> 1)

    @property
    def world_size(self) -> int:
        """How many processes share an epoch."""
        return self.rows.world_size

    @property
    def epoch(self) -> int:
        """The epoch that `iter` gives."""
        return self.rows.epoch

    @property
    def consumed(self) -> int:
        """Batches that all ranks took of the epoch before `iter` begins."""
        return self.rows.consumed

    @property
    def skipped_rows(self) -> int:
        """For how many rows another one stood in."""
        return self.rows.skipped_rows

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of another epoch; in the same one nothing changes."""
        self.rows.set_epoch(epoch)

    def rewind(self) -> None:
        """Goes to the beginning of the epoch."""
        self.rows.rewind()

    def __len__(self) -> int:
        """How many batches this rank has in an epoch."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """The batch of that number in this rank's epoch."""
        return self.rows[index]

    def __iter__(self) -> Iterator[Item]:
        """This rank's batches, from where a state was loaded; of a DataLoader's worker its share of them."""
        return iter(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """See TokenDataset."""
        return self.rows.state_dict()

    def state_after(self, consumed: int) -> dict[str, Any]:
        """See TokenDataset."""
        return self.rows.state_after(consumed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state says; see TokenDataset."""
        self.rows.load_state_dict(state)
        self.normalization = self._statistics()
