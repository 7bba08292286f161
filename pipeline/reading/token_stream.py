"""TokenStream: a dataset of tokens as packed sequences for a language model."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any, Literal

from torch.utils.data import IterableDataset

from pipeline.errors import ConfigError
from pipeline.reading.lanes import Lane, Lanes
from pipeline.reading.packing import Carry, LanePacker, Packing, RowWriter, joined_batch, sequence_of
from pipeline.reading.rows import CorruptPolicy
from pipeline.reading.source import Source
from pipeline.reading.states import Position, SharedNumbers, check_states, merged_carries, worker_share
from pipeline.reading.vocabulary import Vocabulary

__all__ = ["TokenStream"]

Item = dict[str, Any]

_SAME_ON_RESUME = (
    "context",
    "packing",
    "batch_size",
    "lanes",
    "shuffle",
    "split",
    "epochs",
    "offset",
    "order",
    "digits",
    "frame_ends",
    "has_text",
    "text_place",
)


class TokenStream(IterableDataset[Item]):
    """Sequences of `context` ids, packed from clips and their captions, in an order that ranks and workers share.

    Each lane of the order (see order.py) is packed by itself, so a sequence depends on (snapshot, seed) and the
    arguments alone, and a stream goes on with other numbers of ranks and workers. An item is a batch of sequences of
    one lane; without `batch_size` a sequence:

        tokens      int64 (B, context)
        positions   int32 (B, context, 3)   (t, h, w) of each id's token (see Vocabulary.encode); 0 for text and padding
        index       int64 (B, context)      its place among its row's ids
        kinds       uint8 (B, context)      0 padding, 1 text, 2 video
        loss_mask   bool (B, context)       whether an id is to be predicted: not the text unless told, no `bos`
        cu_seqlens  int32 (pieces + 1)      where pieces of one row each begin and end, over all B * context ids
        id          lists of the rows' ids
        carry       where the item's lane stands after it, which TokenLoader takes out and keeps for its state

    It has no end, unless `epochs` says so: rows of the next epoch follow those of the last. All ranks have equally many
    items; towards the end of the last epoch some may be nothing but padding.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        context: int,
        offset: int = 0,
        order: str = "thw",
        digits: bool = False,
        frame_ends: bool = True,
        text: Callable[[str], Sequence[int]] | None = None,
        text_place: Literal["before", "after"] = "before",
        text_is_learned: bool = False,
        packing: Packing = "across",
        batch_size: int | None = None,
        epochs: int | None = None,
        snapshot: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        lanes: int = 8,
        split: str | None = None,
        on_corrupt: CorruptPolicy = "raise",
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 64 * 2**30,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens a dataset of tokens.

        Args:
            root: the dataset's root, a path or a URL of any store.
            context: ids of a sequence.
            offset: see Vocabulary, as are `order`, `digits` and `frame_ends`.
            order: the axes of the grid, the outermost first.
            digits: FSQ digits in place of tokens.
            frame_ends: whether an id ends each latent frame.
            text: gives the ids of a caption, below `offset`; None: captions are left out.
            text_place: `before` the clip or `after` it.
            text_is_learned: whether the text's ids are to be predicted.
            packing: `across`: a clip that does not fit goes on in the next sequence; `within`: it begins there.
            batch_size: sequences of an item.
            epochs: end after so many; with `text` every caption is read once to know when that is.
            snapshot: see TokenDataset, as are all that follow.
            seed: of the order.
            rank: of this process among `world_size`.
            world_size: how many processes share the stream.
            shuffle: False: rows come as they were written.
            lanes: how many are packed side by side, a multiple of ranks times workers if that can be.
            split: `train` or `validation`.
            on_corrupt: `raise`, or `skip`.
            cache_dir: for row groups on a local disk.
            cache_bytes: how large that may grow.
            storage: of the store.

        Raises:
            ConfigError: there is no such dataset, it holds latents, or an argument makes no sense.
            StorageError: the store failed.
        """
        super().__init__()
        for name, value in (("context", context), ("lanes", lanes), ("batch_size", batch_size), ("epochs", epochs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: expected 1 or more")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of world_size {world_size}: expected 0 <= rank < world_size")
        for name, word, known in (
            ("packing", packing, ("across", "within")),
            ("text_place", text_place, ("before", "after")),
            ("on_corrupt", on_corrupt, ("raise", "skip")),
        ):
            if word not in known:
                raise ConfigError(f"{name} {word!r}: expected {' or '.join(known)}")
        self.rank, self.world_size, self.seed, self.epochs = rank, world_size, int(seed), epochs
        self.context, self.packing, self.batch_size = context, packing, batch_size
        self.shuffle, self.split = shuffle, split
        self.offset, self.order, self.digits, self.frame_ends = offset, order, digits, frame_ends
        self.has_text, self.text_place = text is not None, text_place
        self._source = Source(
            str(root),
            columns=("id",) if text is None else ("id", "caption"),
            snapshot=snapshot,
            split=split,
            cache=None if cache_dir is None else (str(cache_dir), cache_bytes),
            storage=dict(storage or {}),
            skip_corrupt=on_corrupt == "skip",
        )
        if not self._source.model.is_discrete:
            raise ConfigError(f"{root}: holds latents of {self._source.description['model']['name']}: see LatentStream")
        self.vocabulary = Vocabulary(
            levels=self._source.model.fsq_levels, offset=offset, order=order, digits=digits, frame_ends=frame_ends
        )
        self._writer = RowWriter(self.vocabulary, text, text_place, text_is_learned)
        if not self._num_lanes(lanes):
            raise ConfigError(f"{root}: snapshot {self._source.snapshot} has no rows to read")
        self.lanes = lanes
        self._on_corrupt: CorruptPolicy = on_corrupt
        self._carries: dict[int, Carry] = {}
        self._shared = SharedNumbers()
        self._position = Position()
        self._opened: Lanes | None = None
        self._num_items: int | None = None

    def _num_lanes(self, lanes: int) -> int:
        """No lane is without rows."""
        rows = int(self._source.index.sections(by_shape=False)[0].rows.sum())
        return min(lanes if self.shuffle else 1, rows)

    @property
    def skipped_rows(self) -> int:
        """For how many rows another one stood in, because theirs could not be read (`on_corrupt`) or was removed."""
        return self._shared.count

    def _lanes(self) -> Lanes:
        if self._opened is None or not self._opened.is_of_this_process:
            self._opened = Lanes(
                self._source,
                self._writer,
                seed=self.seed,
                lanes=self._num_lanes(self.lanes),
                shuffle=self.shuffle,
                on_corrupt=self._on_corrupt,
                on_lost=self._shared.add,
            )
        return self._opened

    def _total(self) -> int | None:
        """How many items all ranks have together; None: no end."""
        if self.epochs is not None and self._num_items is None:
            of_lanes = [self._count(number) for number in range(self._num_lanes(self.lanes))]
            self._num_items = len(of_lanes) * max(of_lanes)
        return self._num_items

    def _count(self, number: int) -> int:
        """How many items a lane has."""
        lane = Lane(self._lanes(), number, self.epochs)
        packer = LanePacker(lane.length_of, context=self.context, packing=self.packing)
        while packer.next():
            pass
        return -(-(packer.carry.sequences - 1) // (self.batch_size or 1))

    def __len__(self) -> int:
        """How many items this rank has.

        Raises:
            TypeError: it has no end.
        """
        total = self._total()
        if total is None:
            raise TypeError("a TokenStream without `epochs` has no end")
        return -(-total // self.world_size)

    def __iter__(self) -> Iterator[Item]:
        """This rank's items from where a state was loaded; of a DataLoader's worker its share of them."""
        number, of = worker_share()
        base, begin = self._position.at = self._position.begin
        total, lanes = self._total(), self._num_lanes(self.lanes)
        steps = None if total is None else -(-max(0, total - base) // self.world_size)
        packers: dict[int, tuple[Lane, LanePacker]] = {}
        for count in itertools.count(begin):
            step = number + count * of
            if steps is not None and step >= steps:
                break
            turn, lane = divmod(base + step * self.world_size + self.rank, lanes)
            item = self._item(lane, turn * (self.batch_size or 1), packers)
            self._position.at = (base, count + 1)
            yield item
        self.rewind()

    def _item(self, number: int, first: int, packers: dict[int, tuple[Lane, LanePacker]]) -> Item:
        """The sequences of a lane from `first` on."""
        if number not in packers:
            lane = Lane(self._lanes(), number, self.epochs)
            carry = self._carries.get(number)
            carry = carry if carry is not None and carry.sequences <= first else None
            packer = LanePacker(lane.length_of, context=self.context, packing=self.packing, carry=carry)
            packers[number] = lane, packer
        lane, packer = packers[number]
        packer.skip(first - packer.carry.sequences, lane.row_length if self.epochs is None else None)
        sequences = []
        for _ in range(self.batch_size or 1):
            pieces = [(piece, lane.written(piece.row)) for piece in packer.next()]
            sequences.append(sequence_of(pieces, context=self.context, vocabulary=self.vocabulary))
        self._carries[number] = packer.carry
        item = sequences[0] if self.batch_size is None else joined_batch(sequences, self.context)
        return {**item, "carry": {number: astuple(packer.carry)}}

    @property
    def epoch(self) -> int:
        """The first one: a stream goes on through all by itself."""
        return 0

    def set_epoch(self, epoch: int) -> None:
        """Nothing: see `epoch`."""

    @property
    def consumed(self) -> int:
        """Items that all ranks took before `iter` begins."""
        return self._position.consumed(self.world_size)

    def rewind(self) -> None:
        """Lets the next `iter` begin with the stream."""
        self._position.begin = (0, 0)
        self._carries = {}

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands; in a DataLoader's worker, where that worker does (see TokenDataset)."""
        carries = {lane: astuple(carry) for lane, carry in self._carries.items()}
        return {**self.state_after(0), **self._position.state(self.world_size), "carries": carries}

    def state_after(self, consumed: int) -> dict[str, Any]:
        """The state of all ranks when they took so many items; where lanes stand is found out again."""
        state = {"seed": self.seed, **self._source.state()}
        return state | {name: getattr(self, name) for name in _SAME_ON_RESUME} | {"consumed": consumed}

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Goes to where a state says.

        Args:
            state: of any rank; or those of all ranks, where their number changes: each knows where its own lanes stand,
                and those of the others are gone over from their beginning (with `text`, every caption is read).

        Raises:
            ConfigError: it is of another dataset or of other arguments that make the order, or of a worker among
                another number of workers.
        """
        states = [state] if isinstance(state, Mapping) else list(state)
        check_states("TokenStream", self, states, _SAME_ON_RESUME)
        first = states[0]
        self._source.load_state(first)
        self.seed = int(first["seed"])
        self._position.load(first)
        self._carries = {lane: Carry(*carry) for lane, carry in merged_carries(states).items()}
        self._opened = self._num_items = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: nothing that is open."""
        return {**self.__dict__, "_opened": None}
