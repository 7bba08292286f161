"""A stage of training: what learns, what stays, and that a saved state goes on exactly."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from tests.support import require
from tests.vidtok_model.support import TINY_FSQ, TINY_KL, fill, tiny_tokenizer
from vidtok_model import VideoTokenizer, random_tokenizer
from vidtok_model.golden import golden_clip
from vidtok_model.metrics import Lpips
from vidtok_model.training import AdversarialOptions, Trainer, TrainingOptions
from vidtok_model.training.optimizers import Muon

ADVERSARIAL = AdversarialOptions(start=2, learning_rate=1e-3)


def clips_of(step: int, size: int = 2) -> tuple[torch.Tensor, list[int]]:
    """An iteration's clips, and their numbers."""
    return golden_clip(f"train {step}", (size, 3, 5, 32, 32)), [step * size + place for place in range(size)]


def trainer_of(config, **options) -> Trainer:
    plain = {"steps": 10, "learning_rate": 1e-3, "precision": "fp32", "adversarial": None}
    return Trainer(random_tokenizer(config, seed=1), TrainingOptions(**{**plain, **options}), seed=7)


def run(trainer: Trainer, steps: range) -> list[dict[str, float]]:
    return [trainer.iterate(*clips_of(step), step) for step in steps]


def flat(state, prefix="") -> dict[str, object]:
    """A state's values by path."""
    if isinstance(state, dict):
        return {path: value for key, inner in state.items() for path, value in flat(inner, f"{prefix}/{key}").items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)), prefix)
    return {prefix: state}


def assert_equal_states(left, right) -> None:
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    different = [
        path
        for path, value in left.items()
        if not (torch.equal(value, right[path]) if isinstance(value, torch.Tensor) else value == right[path])
    ]
    assert different == []


def test_gradients_that_are_not_finite_change_nothing_and_end_it_when_they_go_on():
    trainer = trainer_of(TINY_KL)
    run(trainer, range(2))
    before = copy.deepcopy(trainer.state_dict())
    clips, numbers = clips_of(2)
    figures = trainer.iterate(clips * math.inf, numbers, 2)
    assert not math.isfinite(figures["gradient_norm"])
    assert_equal_states(trainer.state_dict(), before)
    assert math.isfinite(run(trainer, range(3, 4))[0]["l1"])
    for step in range(4, 23):
        trainer.iterate(clips * math.inf, numbers, step)
    with pytest.raises(FloatingPointError, match="iteration 24: the gradients were not finite 20 times in a row"):
        trainer.iterate(clips * math.inf, numbers, 23)


@pytest.mark.parametrize("config", [TINY_KL, TINY_FSQ], ids=lambda config: config.name)
@pytest.mark.parametrize(
    "options",
    [{}, {"adversarial": ADVERSARIAL}, {"optimizer": "muon"}],
    ids=["plain", "adversarial", "muon"],
)
def test_a_saved_state_goes_on_bit_for_bit(config, options):
    """Model, optimizers, mean of the weights, LeCam's means, BatchNorm; and the noise, which follows from numbers."""
    unbroken = trainer_of(config, **options)
    figures = run(unbroken, range(5))
    stopped = trainer_of(config, **options)
    run(stopped, range(3))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    torch.rand(17)  # the process that goes on has drawn other random numbers
    resumed = Trainer(random_tokenizer(config, seed=2), unbroken.options, seed=7)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert run(resumed, range(3, 5)) == figures[3:]
    assert_equal_states(resumed.state_dict(), unbroken.state_dict())


@pytest.mark.parametrize("config", [TINY_KL, TINY_FSQ], ids=lambda config: config.name)
def test_the_decoder_alone(config):
    """Whatever the second stage does, the encoder's weights stay bit for bit, and so do all tokens and latents."""
    tokenizer = fill(VideoTokenizer(config))
    before = copy.deepcopy(tokenizer.state_dict())
    options = TrainingOptions(trains="decoder", steps=5, learning_rate=1e-2, precision="fp32", adversarial=ADVERSARIAL)
    trainer = Trainer(tokenizer, options)
    run(trainer, range(5))
    for name, value in trainer.average.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name
    clip, _ = clips_of(99)
    with torch.no_grad():
        ours, theirs = (tokenizer.encode(clip) for tokenizer in (trainer.average, tiny_tokenizer(config)))
    assert torch.equal(ours.latents, theirs.latents)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_all_learns(optimizer):
    trainer = trainer_of(TINY_KL, optimizer=optimizer)
    before = copy.deepcopy(trainer.tokenizer.state_dict())
    run(trainer, range(3))
    same = [name for name, value in trainer.tokenizer.state_dict().items() if torch.equal(value, before[name])]
    assert same == []


def test_muon_is_pytorchs_on_kernels_as_matrices(monkeypatch):
    require("torch-muon", hasattr(torch.optim, "Muon"), f"PyTorch {torch.__version__} is without Muon")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # theirs rounds to it
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 8, 3, 3, 3), (40, 8, 1, 1)):  # wide, tall
        kernel = nn.Parameter(torch.randn(shape, generator=generator))
        matrix = nn.Parameter(kernel.detach().flatten(1).clone())
        ours = Muon([kernel], lr=0.01)
        theirs = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        for step in range(4):
            kernel.grad = torch.randn(shape, generator=generator) * 10.0**-step
            matrix.grad = kernel.grad.flatten(1)
            ours.step()
            theirs.step()
            assert torch.allclose(kernel.flatten(1), matrix, atol=1e-5), (shape, step)


def test_the_mean_of_the_weights_is_a_running_mean():
    trainer = trainer_of(TINY_KL, ema_decay=0.75)
    name = "decoder.conv_out.conv.weight"
    expected = None
    for step in range(4):
        trainer.iterate(*clips_of(step), step)
        now = trainer.tokenizer.state_dict()[name]
        expected = now.clone() if expected is None else 0.75 * expected + 0.25 * now
    assert torch.allclose(trainer.average.state_dict()[name], expected, atol=1e-7)


def test_the_discriminator_learns_and_counts_from_its_start_on():
    trainer = trainer_of(TINY_KL, adversarial=ADVERSARIAL)
    first = copy.deepcopy(trainer.state_dict()["judgement"])
    figures = run(trainer, range(2))
    before = trainer.state_dict()["judgement"]
    assert all("adversarial" not in terms for terms in figures)
    assert torch.equal(before["discriminator.main.0.weight"], first["discriminator.main.0.weight"])
    assert before["lecam.real"] != 0, "LeCam's means are taken from the first iteration on"
    assert "adversarial" in trainer.iterate(*clips_of(2), 2)
    after = trainer.state_dict()["judgement"]
    assert not torch.equal(after["discriminator.main.0.weight"], first["discriminator.main.0.weight"])


def test_activations_computed_again_give_the_same_gradients():
    kept, again = (trainer_of(TINY_FSQ, checkpoint_activations=on) for on in (False, True))
    for one, other in zip(run(kept, range(3)), run(again, range(3)), strict=True):
        assert one == pytest.approx(other)
    for (name, one), other in zip(
        kept.tokenizer.state_dict().items(), again.tokenizer.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5), name


def test_lpips_is_a_term_that_is_learned_from():
    torch.manual_seed(0)
    lpips = Lpips().requires_grad_(False).eval()
    for weight in lpips.lins:  # 0 in a new one
        weight.uniform_()
    options = TrainingOptions(steps=3, learning_rate=1e-3, precision="fp32", adversarial=None, perceptual_weight=2.0)
    with_it = Trainer(random_tokenizer(TINY_KL, seed=1), options, lpips=lpips, seed=7)
    without = trainer_of(TINY_KL)
    clips, numbers = clips_of(0, 1)
    ours, plain = with_it.iterate(clips, numbers, 0), without.iterate(clips, numbers, 0)
    # 5 frames of 3 x 32 x 32 values, each of which has twice the frame's LPIPS on top; logvar is 0.
    assert ours["nll"] == pytest.approx(plain["nll"] + 2.0 * ours["lpips"] * 3 * 32 * 32, rel=1e-4)
    assert ours["gradient_norm"] != pytest.approx(plain["gradient_norm"], rel=1e-3)
    assert "lpips" not in plain


def test_bfloat16():
    trainer = trainer_of(TINY_FSQ, precision="bf16")
    figures = run(trainer, range(3))
    assert all(torch.isfinite(torch.tensor(value)) for terms in figures for value in terms.values())
    assert {parameter.dtype for parameter in trainer.tokenizer.parameters()} == {torch.float32}
    exact = run(trainer_of(TINY_FSQ), range(1))[0]
    assert figures[0]["l1"] == pytest.approx(exact["l1"], rel=0.02)


def _train_rank(rank: int, ranks: int, folder: str, config) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks)
    trainer = trainer_of(config)
    for step in range(4):
        clips, samples = clips_of(step, 4)
        trainer.iterate(clips[rank::ranks], samples[rank::ranks], step)
    if rank == 0:
        torch.save(trainer.state_dict(), f"{folder}/state.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("config", [TINY_KL, TINY_FSQ], ids=lambda config: config.name)
def test_two_ranks_do_what_one_does_with_their_batches(config, tmp_path):
    """Gradients, the noise of each sample, and FSQ's mean over the codebook are those of both. A step goes by 1e-3."""
    alone = trainer_of(config)
    for step in range(4):
        alone.iterate(*clips_of(step, 4), step)
    torch.multiprocessing.spawn(_train_rank, args=(2, str(tmp_path), config), nprocs=2)
    expected = alone.state_dict()["autoencoder"]
    for name, value in torch.load(tmp_path / "state.pt", weights_only=True)["autoencoder"].items():
        if name.endswith("attn_1.k.conv.bias"):
            continue  # no softmax depends on it: Adam makes steps of what rounding leaves of its gradient
        assert torch.allclose(value, expected[name], atol=1e-4, rtol=0), name
