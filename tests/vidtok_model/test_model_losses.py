"""Each term of the training loss, against the published code's numbers or values worked out by hand."""

import json
import math

import pytest
import torch

from tests.vidtok_model.support import GOLDEN
from vidtok_model.golden import parameter, unit
from vidtok_model.regularizers import DiagonalGaussian, FiniteScalarQuantizer
from vidtok_model.training.discriminator import PatchDiscriminator
from vidtok_model.training.losses import (
    LeCamAverages,
    adaptive_weight,
    fsq_loss,
    generator_loss,
    hinge_loss,
    kl_loss,
    reconstruction_loss,
)
from vidtok_model.training.options import AdversarialOptions, TrainingOptions

RECORDED = json.loads((GOLDEN / "losses.json").read_text())


@pytest.mark.parametrize("channels", [4, 5])
@pytest.mark.parametrize("iteration", [0, 500, 2000, 10000])
@pytest.mark.parametrize(("chunk", "autocast"), [(2**26, False), (2**14, False), (2**14, True)])
def test_fsq(monkeypatch, channels, iteration, chunk, autocast):
    """The value and the gradient, however the positions are cut up to save memory, and in float32 under autocast."""
    monkeypatch.setattr("vidtok_model.training.losses._CHUNK_ELEMENTS", chunk)
    z_BCTHW = torch.from_numpy(2 * unit(f"loss:z{channels}", (2, channels, 3, 4, 4))).requires_grad_()
    quantizer = FiniteScalarQuantizer((8,) * channels)
    z_BTHWC = z_BCTHW.permute(0, 2, 3, 4, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = fsq_loss(z_BTHWC, quantizer(z_BTHWC).latents, quantizer, iteration)
    loss.backward()
    recorded = RECORDED[f"fsq_{channels}_step{iteration}"]
    assert loss.item() == pytest.approx(recorded["aux_loss"], abs=1e-5)
    assert z_BCTHW.grad.norm().item() == pytest.approx(recorded["grad_norm"], abs=2e-5)
    assert z_BCTHW.grad.flatten()[:4].tolist() == pytest.approx(recorded["grad_first"], abs=1e-6)


def test_kl():
    z_BCTHW = torch.from_numpy(2 * unit("loss:kl", (2, 8, 3, 4, 4))).requires_grad_()
    encoded = DiagonalGaussian()(z_BCTHW.permute(0, 2, 3, 4, 1))
    loss = kl_loss(encoded.mean, encoded.logvar)
    loss.backward()
    assert loss.item() == pytest.approx(RECORDED["kl"]["kl_loss"], rel=1e-6)
    assert z_BCTHW.grad.norm().item() == pytest.approx(RECORDED["kl"]["grad_norm"], rel=1e-6)


def test_discriminator():
    discriminator = PatchDiscriminator().train()
    recorded = RECORDED["discriminator_train_mode"]
    state = discriminator.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == recorded["state"]
    made = {
        name: value
        if "running" in name or "tracked" in name
        else torch.from_numpy(parameter(f"disc:{name}", value.shape))
        for name, value in state.items()
    }
    discriminator.load_state_dict(made)
    with torch.no_grad():
        logits = discriminator(torch.from_numpy(unit("disc:x", (4, 3, 64, 64))))
    assert list(logits.shape) == recorded["output_shape"]
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((recorded["mean"], recorded["std"]), abs=1e-6)
    assert logits.flatten()[:4].tolist() == pytest.approx(recorded["first"], abs=1e-6)


def test_a_new_discriminator_has_the_published_initial_weights():
    torch.manual_seed(0)
    state = PatchDiscriminator().state_dict()
    assert state["main.8.weight"].std().item() == pytest.approx(0.02, rel=0.01)
    assert (state["main.9.weight"] - 1).std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["main.0.bias"].any() and not state["main.9.bias"].any()


def test_reconstruction():
    """Two frames of 1x1x2: errors 0.5 and 0.1, 0.2 and 0.4; LPIPS 0.3 and 0; logvar log 2."""
    given = torch.tensor([[[[0.5, 0.0]]], [[[0.0, 1.0]]]])
    decoded = torch.tensor([[[[0.0, 0.1]]], [[[0.2, 0.6]]]])
    logvar = torch.tensor(math.log(2.0))
    expected = (0.5 + 0.1 + 2 * 0.3 + 0.2 + 0.4) / 2 / 2 + 2 * math.log(2)
    assert reconstruction_loss(given, decoded, torch.tensor([0.3, 0.0]), logvar).item() == pytest.approx(expected)
    plain = (0.5 + 0.1 + 0.2 + 0.4) / 2 / 2 + 2 * math.log(2)
    assert reconstruction_loss(given, decoded, None, logvar).item() == pytest.approx(plain)


def test_hinge():
    real, decoded = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 3.0])
    assert hinge_loss(real, decoded).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 0.5 + 4) / 3))


def test_generator():
    """Of a frame's mean logit: 1 for the first frame, -2 for the second."""
    logits = torch.tensor([[[[0.0, 2.0]]], [[[-1.0, -3.0]]]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert generator_loss(logits).item() == pytest.approx(expected)


def test_lecam():
    """Means begin at 0 and take the logits in before they are compared."""
    lecam = LeCamAverages(decay=0.9)
    real, decoded = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -3.0])
    # Means: 0.2 and -0.2. relu(real + 0.2)^2 = 1.44, 10.24; relu(0.2 - decoded)^2 = 1.44, 10.24.
    assert lecam(real, decoded).item() == pytest.approx(1.44 + 10.24)
    assert (lecam.real.item(), lecam.decoded.item()) == pytest.approx((0.2, -0.2))
    assert lecam(torch.tensor([-5.0]), torch.tensor([5.0])).item() == 0
    assert (lecam.real.item(), lecam.decoded.item()) == pytest.approx((0.18 - 0.5, -0.18 + 0.5))


def test_adaptive_weight():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    nll, adversarial = (weight * torch.tensor([6.0, 8.0])).sum(), (weight * torch.tensor([0.0, 2.0])).sum()
    assert adaptive_weight(nll, adversarial, weight).item() == pytest.approx(10 / (2 + 1e-4))
    assert adaptive_weight(nll, 0 * adversarial, weight).item() == pytest.approx(1e4), "at most"
    assert not adaptive_weight(nll, adversarial, weight).requires_grad


def test_learning_rate():
    constant = TrainingOptions(steps=100, warmup_steps=4)
    assert [constant.learning_rate_factor(step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    cosine = TrainingOptions(steps=100, schedule="cosine")
    assert [cosine.learning_rate_factor(step) for step in (0, 50, 100)] == pytest.approx([1, 0.505, 0.01])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingOptions, {"steps": 0}, "steps: 0: expected at least 1"),
        (TrainingOptions, {"learning_rate": 0.0}, "learning_rate: 0.0: expected above 0"),
        (TrainingOptions, {"ema_decay": 1.0}, "ema_decay: 1.0: expected 0 to below 1"),
        (AdversarialOptions, {"weight": -1.0}, "weight: -1.0: expected at least 0"),
        (AdversarialOptions, {"lecam_decay": 1.5}, "lecam_decay: 1.5: expected 0 to below 1"),
    ],
)
def test_impossible_options(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
