"""TokenStream: every id where it belongs, the same sequences wherever it is broken off, and padding only at the end."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import TokenDataset, TokenLoader, TokenStream, Vocabulary
from pipeline.errors import ConfigError
from tests.rows_for_tests import GRID, made_rows

# Three workers on a machine of two cores are what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")

SHAPES = [GRID, (1, 2, 2), (3, 3, 3)]
OFFSET = 300


def text(caption: str) -> list[int]:
    """One id for each letter: captions differ in length."""
    return list(caption.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uniform")
    made_rows(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of three shapes."""
    folder = tmp_path_factory.mktemp("mixed")
    made_rows(folder, grids=SHAPES)
    return folder


def taken(stream: Any, count: int | None = None) -> list[dict[str, Any]]:
    return [{**item, "carry": None} for item in itertools.islice(stream, count)]


def equal(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for one, other in zip(left, right, strict=True)
        for name, value in one.items()
    )


def written(rows: list[dict[str, Any]], vocabulary: Vocabulary, *, with_text: bool) -> list[int]:
    """The ids of rows one after the other, put together by hand."""
    ids: list[int] = []
    for row in rows:
        ids += text(row["caption"]) if with_text else []
        ids.append(vocabulary.bos)
        for frame in row["tokens"]:
            ids += [int(token) + OFFSET for token in frame.flatten()] + [vocabulary.end_of_frame]
        ids.append(vocabulary.end_of_video)
    return ids


@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.permutations("thw").map("".join),
    st.booleans(),
    st.booleans(),
    st.integers(0, 50),
)
def test_a_vocabulary_writes_what_it_reads(
    shape: tuple[int, int, int], order: str, digits: bool, frame_ends: bool, offset: int
) -> None:
    vocabulary = Vocabulary(levels=(8, 8, 5, 3), offset=offset, order=order, digits=digits, frame_ends=frame_ends)
    tokens = torch.arange(shape[0] * shape[1] * shape[2], dtype=torch.int32).reshape(shape) * 37 % 960
    ids, positions = vocabulary.encode(tokens)
    assert len(ids) == len(positions) == vocabulary.num_ids(shape)
    assert torch.equal(vocabulary.decode(ids, shape), tokens)
    assert offset <= int(ids.min()) and int(ids.max()) < vocabulary.size
    video = (ids >= offset) & (ids < vocabulary.bos)
    digit = torch.zeros(len(ids), dtype=torch.long)
    digit[video] = torch.arange(int(video.sum())) % vocabulary.ids_per_token
    for place in torch.nonzero(video & (digit == 0)).flatten().tolist():
        t, h, w = positions[place].tolist()
        expected = int(tokens[t, h, w]) % (8 if digits else 10**9) + offset
        assert int(ids[place]) == expected, "its position is that of its token"


def test_a_small_clip_by_hand() -> None:
    vocabulary = Vocabulary(levels=(4, 3), offset=100)
    ids, positions = vocabulary.encode(torch.tensor([[[0, 11]], [[5, 6]]], dtype=torch.int32))
    assert ids.tolist() == [112, 100, 111, 113, 105, 106, 113, 114]
    assert positions.tolist() == [
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 2],
        [2, 0, 0],
    ]
    digits = Vocabulary(levels=(4, 3), offset=100, digits=True, frame_ends=False, order="wth")
    ids, _ = digits.encode(torch.tensor([[[0, 11]], [[5, 6]]], dtype=torch.int32))
    assert ids.tolist() == [107, 100, 104, 101, 105, 103, 106, 102, 105, 109], "0, 5, 11, 6: ones, then fours"
    with pytest.raises(ConfigError, match="3 video ids: expected 4"):
        vocabulary.decode(torch.tensor([100, 101, 102]), (2, 1, 2))
    with pytest.raises(ConfigError, match="a digit stands in the place of another one"):
        digits.decode(torch.tensor([104, 100]), (1, 1, 1))


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_lane_is_its_rows_one_after_the_other(mixed: Path, lanes: int, with_text: bool) -> None:
    """Joined, a lane's sequences are the ids of its rows in the order of each epoch in turn."""
    options = {"offset": OFFSET, "lanes": lanes, "seed": 5, "text": text if with_text else None}
    stream = TokenStream(mixed, context=64, **options)
    found = taken(stream, 20 * lanes)
    rows_of_a_lane = 72 // lanes
    for lane in range(lanes):
        rows = []
        for epoch in range(3):
            # TokenDataset deals rows from the lanes in turns.
            epoch_rows = list(TokenDataset(mixed, columns=["id", "caption"], lanes=lanes, seed=5, epoch=epoch))
            rows += epoch_rows[lane::lanes]
        assert len(rows) == 3 * rows_of_a_lane
        ids = torch.cat([item["tokens"] for item in found[lane::lanes]]).tolist()
        assert ids == written(rows, stream.vocabulary, with_text=with_text)[: len(ids)]
    assert not any((item["kinds"] == 0).any() for item in found), "no padding where there is no end"


def test_what_stands_beside_the_ids(mixed: Path) -> None:
    stream = TokenStream(mixed, context=50, offset=OFFSET, text=text, text_place="after", epochs=1, lanes=2)
    vocabulary = stream.vocabulary
    rows = {row["id"]: row for row in TokenDataset(mixed, columns=["id", "caption"])}
    for item in stream:
        ids, kinds = item["tokens"], item["kinds"]
        assert torch.equal(kinds == 0, ids == vocabulary.pad) and torch.equal(kinds == 1, ids < OFFSET)
        assert torch.equal(item["loss_mask"], (kinds == 2) & (ids != vocabulary.bos))
        bounds = item["cu_seqlens"].tolist()
        assert bounds[0] == 0 and bounds[-1] == 50 and bounds == sorted(set(bounds))
        for (begin, end), row_id in zip(itertools.pairwise(bounds), item["id"], strict=False):
            index = item["index"][begin:end].tolist()
            assert index == list(range(index[0], index[0] + end - begin))
            length = vocabulary.num_ids(rows[row_id]["tokens"].shape)
            for place, at in zip(range(begin, end), index, strict=True):
                if kinds[place] == 2 and OFFSET <= ids[place] < vocabulary.bos:
                    t, h, w = item["positions"][place].tolist()
                    assert int(ids[place]) - OFFSET == int(rows[row_id]["tokens"][t, h, w])
                if kinds[place] == 1:
                    assert int(ids[place]) == text(rows[row_id]["caption"])[at - length]
    learned = TokenStream(mixed, context=50, offset=OFFSET, text=text, text_is_learned=True)
    (item,) = taken(learned, 1)
    assert item["loss_mask"][item["kinds"] == 1].all() and (item["kinds"] == 1).any()


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("packing", ["across", "within"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_has_each_row_once(mixed: Path, packing: Any, with_text: bool, world_size: int) -> None:
    options = {"context": 80, "offset": OFFSET, "packing": packing, "epochs": 1, "lanes": 4, "batch_size": 2}
    options["text"] = text if with_text else None
    ranks = [TokenStream(mixed, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    items = [taken(rank) for rank in ranks]
    assert [len(one) for one in items] == [len(rank) for rank in ranks] and len({len(one) for one in items}) == 1
    vocabulary = ranks[0].vocabulary
    ids = torch.cat([item["tokens"].flatten() for one in items for item in one])
    rows = list(TokenDataset(mixed, columns=["id", "caption"]))
    expected = sorted(written(rows, vocabulary, with_text=with_text))
    assert sorted(ids[ids != vocabulary.pad].tolist()) == expected
    starts = [int(item["index"][0, 0]) for one in items for item in one]
    assert any(starts) == (packing == "across"), "within: no clip is cut"


@settings(max_examples=12)
@given(data=st.data(), lanes=st.integers(1, 5), batch_size=st.sampled_from([None, 2]), with_text=st.booleans())
def test_a_stream_goes_on_with_other_ranks(
    mixed: Path, data: st.DataObject, lanes: int, batch_size: int | None, with_text: bool
) -> None:
    options: Any = {"context": 70, "offset": OFFSET, "lanes": lanes, "batch_size": batch_size}
    options["text"] = text if with_text else None
    whole = taken(TokenStream(mixed, **options), 60)
    found: list[Any] = []
    states = None
    for world_size in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        ranks = [TokenStream(mixed, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        is_told = data.draw(st.booleans())  # of all ranks, or of one
        for rank in ranks:
            if states is not None:
                rank.load_state_dict(pickle.loads(pickle.dumps(states if is_told else states[-1])))
        steps = data.draw(st.integers(0, 20 // world_size))
        items = [taken(rank, steps) for rank in ranks]
        found += [item for step in zip(*items, strict=True) for item in step]
        states = [rank.state_dict() for rank in ranks]
    assert equal(found, whole[: len(found)])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_loader_goes_on_after_every_batch(mixed: Path, num_workers: int) -> None:
    """Also with another number of workers: the loader knows where lanes stand that its workers packed."""
    options: Any = {"context": 60, "offset": OFFSET, "lanes": 4, "batch_size": 2, "text": text}
    whole = taken(TokenStream(mixed, **options), 24)
    for stop in (0, 1, 2, 3, 4, 7, 13):
        first = TokenLoader(TokenStream(mixed, **options), num_workers=num_workers)
        found = taken(first, stop)
        state = pickle.loads(pickle.dumps(first.state_dict()))
        assert len(state.get("carries", {})) == min(stop, 4)
        for workers in (num_workers, 2 - min(num_workers, 2)):
            second = TokenLoader(TokenStream(mixed, **options), num_workers=workers)
            second.load_state_dict(state)
            assert equal(found + taken(second, 24 - stop), whole), (stop, workers)


def test_of_two_states_the_later_one_says_where_a_lane_stands(mixed: Path) -> None:
    """A state carries along what it was told of others' lanes, which may be long ago."""
    options: Any = {"context": 60, "lanes": 2}
    early, late = TokenStream(mixed, **options), TokenStream(mixed, **options)
    taken(early, 2)
    taken(late, 8)
    state = late.state_dict()
    stale = {**state, "carries": early.state_dict()["carries"]}
    for states in ([state, stale], [stale, state]):
        resumed = TokenStream(mixed, **options)
        resumed.load_state_dict(states)
        assert resumed.state_dict()["carries"] == state["carries"]


def test_what_a_lane_gave_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.storage import Store

    options: Any = {"context": 60, "lanes": 1}
    whole = taken(TokenStream(root, **options), 30)
    first = TokenStream(root, **options)
    taken(first, 29)
    resumed = TokenStream(root, **options)
    resumed.load_state_dict(first.state_dict())
    asked: list[str] = []
    read_range = Store.read_range
    monkeypatch.setattr(
        Store, "read_range", lambda store, path, *ends: (asked.append(path), read_range(store, path, *ends))[1]
    )
    assert equal(taken(resumed, 1), whole[29:])
    assert len(set(asked)) <= 2, "the row group in which it goes on, and the one that comes next"


def test_a_batch_is_its_sequences(mixed: Path) -> None:
    ones = taken(TokenStream(mixed, context=60, lanes=1), 4)
    (batch,) = taken(TokenStream(mixed, context=60, lanes=1, batch_size=4), 1)
    for name in ("tokens", "positions", "kinds", "loss_mask", "index"):
        assert torch.equal(batch[name], torch.stack([one[name] for one in ones]))
    bounds = [bound + 60 * number for number, one in enumerate(ones) for bound in one["cu_seqlens"].tolist()[1:]]
    assert batch["cu_seqlens"].tolist() == [0, *bounds]
    assert batch["id"] == [one["id"] for one in ones]


@pytest.mark.parametrize("grids", [SHAPES, [GRID]], ids=["mixed", "uniform"])
def test_a_part_that_is_gone(tmp_path: Path, grids: Any) -> None:
    made_rows(tmp_path, grids=grids)
    whole = taken(TokenStream(tmp_path, context=64, offset=OFFSET, text=text), 60)
    (tmp_path / "data").joinpath(sorted(path.name for path in (tmp_path / "data").iterdir())[1]).unlink()
    stream = TokenStream(tmp_path, context=64, offset=OFFSET, text=text, on_corrupt="skip")
    found = taken(stream, 60)
    assert (stream.skipped_rows > 0) == (len(grids) == 1), "of a row group without known shapes no row is in the order"
    assert {item["tokens"].shape for item in found} == {(64,)}
    assert not equal(found, whole)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 0}, "context 0: expected 1 or more"),
        ({"packing": "around"}, "packing 'around': expected across or within"),
        ({"order": "thh"}, "order 'thh': expected the letters t, h and w, each once"),
        ({"rank": 3}, "rank 3 of world_size 1"),
        ({"context": 20, "packing": "within"}, "a row of 28 ids does not fit into a context of 20"),
        ({"text": text}, r"the text's ids go from 32 to \d+: expected from 0 to below the vocabulary's offset 0"),
    ],
)
def test_what_makes_no_sense_is_named(root: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        next(iter(TokenStream(root, **{"context": 64, **options})))


def test_latents_are_no_tokens(tmp_path: Path) -> None:
    made_rows(tmp_path, shards=1, model="vidtok_kl_causal_488_4chn")
    with pytest.raises(ConfigError, match="holds latents of vidtok_kl_causal_488_4chn: see LatentStream"):
        TokenStream(tmp_path, context=64)


def test_a_state_says_whose_it_is(root: Path) -> None:
    state = TokenStream(root, context=64).state_dict()
    with pytest.raises(ConfigError, match=r"state of a TokenStream: is of context 64 \(here 32\)"):
        TokenStream(root, context=32).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"is of digits False \(here True\), has_text False \(here True\)"):
        TokenStream(root, context=64, digits=True, text=text).load_state_dict(state)
    with pytest.raises(ConfigError, match="ranks stand at 0 and at 4"):
        TokenStream(root, context=64).load_state_dict([state, state | {"consumed": 4}])
    with pytest.raises(TypeError, match="has no end"):
        len(TokenStream(root, context=64))
