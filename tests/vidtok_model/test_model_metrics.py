"""PSNR, SSIM and LPIPS: against torchmetrics, and values worked out by hand."""

import math
import re

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from vidtok_model import metrics
from vidtok_model.metrics import Lpips, load_lpips, perceptual_distance, psnr, ssim

SIZES = [(11, 11), (16, 40), (33, 12)]
POOLED_SIZES = [(300, 700, 1), (384, 401, 2), (640, 641, 2), (641, 900, 3)]
# torchvision's VGG16: of each convolution its index among the features, and its channels.
VGG16 = {
    **{0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)},
    **{17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)},
}
POOLS, TAPS = (4, 9, 16, 23), (3, 8, 15, 22, 29)


def random_clips(*shape, seed=0, dtype=torch.float32):
    """Two batches in [-1, 1] that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    clips, noise = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return clips.to(dtype), (0.7 * clips + 0.3 * noise).to(dtype)


def each_frame(measure, reference, decoded):
    """(B, T) of a function that compares two pictures (1, C, H, W) in [0, 1]."""
    B, _, T, _, _ = reference.shape
    pixels, decoded_pixels = (reference + 1) / 2, (decoded + 1) / 2
    return torch.tensor(
        [[measure(decoded_pixels[b, :, t][None], pixels[b, :, t][None]) for t in range(T)] for b in range(B)]
    )


def test_public_names():
    assert sorted(metrics.__all__) == [
        "FeatureStatistics",
        "FrechetDistance",
        "Lpips",
        "frechet_distance",
        "load_i3d",
        "load_lpips",
        "perceptual_distance",
        "psnr",
        "ssim",
        "video_features",
    ]
    assert all(hasattr(metrics, name) for name in metrics.__all__)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 6), (37, 20)])
def test_psnr_agrees_with_torchmetrics(height, width):
    reference, decoded = random_clips(2, 3, 4, height, width)
    expected = each_frame(lambda a, b: peak_signal_noise_ratio(a, b, data_range=1.0), reference, decoded)
    # What is added to the mean square, 1e-8, is less than a thousandth of a decibel here.
    assert psnr(reference, decoded) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("step", [0.0, 1e-4, 0.02, 1.0])
def test_psnr_of_a_constant_difference_is_the_closed_form(step):
    reference = torch.full((1, 3, 2, 4, 4), -1.0, dtype=torch.float64)
    decoded = reference.clone()
    decoded[:, :, 0] += 2 * step  # of pixels in [0, 1], `step`; the second frame stays
    got = psnr(reference, decoded)
    expected = [[-10 * math.log10(step**2 + 1e-8), 80.0]]
    assert got == pytest.approx(torch.tensor(expected, dtype=torch.float64), rel=1e-9, abs=1e-7)


def test_only_what_is_decoded_is_clamped():
    reference, decoded = random_clips(1, 3, 1, 16, 16)
    for measure in (psnr, ssim):
        assert torch.equal(measure(reference, decoded * 9), measure(reference, (decoded * 9).clamp(-1, 1)))
        assert not torch.equal(measure(reference * 9, decoded), measure((reference * 9).clamp(-1, 1), decoded))


def torchmetrics_ssim(decoded, reference):
    """torchmetrics pads by reflection; what it computed without is 5 pixels within."""
    _, positions = structural_similarity_index_measure(decoded, reference, data_range=1.0, return_full_image=True)
    return positions[..., 5:-5, 5:-5].mean()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ssim_agrees_with_torchmetrics(height, width, dtype, tolerance):
    reference, decoded = random_clips(2, 3, 3, height, width, dtype=dtype)
    got = ssim(reference, decoded)
    assert got.dtype == dtype
    assert got == pytest.approx(each_frame(torchmetrics_ssim, reference, decoded), abs=tolerance)


@pytest.mark.parametrize(("height", "width", "pool"), POOLED_SIZES)
def test_ssim_of_large_frames_is_that_of_averaged_ones(height, width, pool):
    clips = random_clips(1, 2, 1, height, width, dtype=torch.float64)
    rows, columns = height // pool, width // pool
    averaged = [
        x[..., : rows * pool, : columns * pool].reshape(1, 2, 1, rows, pool, columns, pool).mean(dim=(4, 6))
        for x in clips
    ]
    assert ssim(*clips) == pytest.approx(each_frame(torchmetrics_ssim, *averaged), abs=1e-9)


def test_ssim_of_constant_frames_is_the_closed_form():
    a, b = 0.25, 0.75
    reference, decoded = (torch.full((1, 3, 1, 12, 12), 2 * x - 1, dtype=torch.float64) for x in (a, b))
    expected = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    assert ssim(reference, decoded).item() == pytest.approx(expected, rel=1e-12)
    assert ssim(reference, reference).item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_half_precision_and_autocast_compute_in_float32(measure):
    reference, decoded = (clips.bfloat16() for clips in random_clips(1, 3, 2, 16, 16))
    expected = measure(reference.float(), decoded.float())
    assert torch.equal(measure(reference, decoded), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(measure(reference.float(), decoded.float()), expected)


@pytest.mark.parametrize("measure", [psnr, ssim, Lpips([[1]])])
@pytest.mark.parametrize(
    ("reference", "decoded", "message"),
    [
        (torch.zeros(1, 3, 2, 16, 16), torch.zeros(1, 3, 1, 16, 16), "decoded ones of (1, 3, 1, 16, 16): expected one"),
        (
            torch.zeros(3, 2, 16, 16),
            torch.zeros(3, 2, 16, 16),
            "clips of shape (3, 2, 16, 16), torch.float32: expected",
        ),
        (torch.zeros(1, 3, 1, 16, 16), torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8), "torch.uint8: expected floats"),
    ],
)
def test_what_is_no_pair_of_clips_is_refused(measure, reference, decoded, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(reference, decoded)


def test_ssim_refuses_frames_smaller_than_its_window():
    with pytest.raises(ValueError, match=re.escape("clips of shape (1, 3, 2, 10, 300): SSIM takes frames of 11x11")):
        ssim(torch.zeros(1, 3, 2, 10, 300), torch.zeros(1, 3, 2, 10, 300))


def test_perceptual_distance_by_hand():
    # The vectors (3, 4) and (8, 6) have the directions (0.6, 0.8) and (0.8, 0.6); a zero vector has none.
    a = [torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([[2.0, 5.0]]).view(1, 1, 1, 2)]
    b = [torch.tensor([8.0, 6.0]).view(1, 2, 1, 1), torch.tensor([[9.0, 0.0]]).view(1, 1, 1, 2)]
    weights = [torch.tensor([1.0, 10.0]).view(1, 2, 1, 1), torch.tensor([3.0]).view(1, 1, 1, 1)]
    # First layer 0.04 * 1 + 0.04 * 10, second the mean of 0 and 3 * 1.
    assert perceptual_distance(a, b, weights).tolist() == pytest.approx([0.44 + 1.5])


def test_the_gradient_of_the_perceptual_distance_is_finite_where_all_channels_are_zero():
    zeros = torch.zeros(1, 2, 1, 1, requires_grad=True)
    perceptual_distance([torch.ones(1, 2, 1, 1)], [zeros], [torch.ones(1, 2, 1, 1)]).sum().backward()
    assert zeros.grad.isfinite().all()


def tiny_lpips() -> Lpips:
    """Two stages: red and green where positive, and the two changed for each other; weights (1, 10) and (2, 3)."""
    lpips = Lpips([[2], [2]]).requires_grad_(False)
    for convolution in (lpips.features[0], lpips.features[3]):
        convolution.weight.zero_()
        convolution.bias.zero_()
    centre, undo_scale, undo_shift = lpips.features[0].weight[:, :, 1, 1], (0.458, 0.448), (-0.030, -0.088)
    for colour in range(2):
        centre[colour, colour] = undo_scale[colour]
        lpips.features[0].bias[colour] = undo_shift[colour]
        lpips.features[3].weight[colour, 1 - colour, 1, 1] = 1
    for lin, weights in zip(lpips.lins, ((1.0, 10.0), (2.0, 3.0)), strict=True):
        lin.copy_(torch.tensor(weights).view(1, 2, 1, 1))
    return lpips


def test_a_tiny_network_by_hand():
    reference = torch.tensor([0.3, 0.4, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 2, 2)
    decoded = reference.clone()
    decoded[0, :, 1, 0, 1] = torch.tensor([0.8, 0.6, -0.2])  # in the second frame, one of four pixels
    # First stage: a quarter of 0.44, as above. Second: the maxima are (0.4, 0.3) and (0.6, 0.8), so 0.04 * 2 + 0.04 * 3
    # of (0.8, 0.6) and (0.6, 0.8).
    assert tiny_lpips()(reference, decoded) == pytest.approx(torch.tensor([[0.0, 0.11 + 0.2]]), abs=1e-6)


def test_lpips_has_the_gradient_of_the_decoded_clip():
    lpips = tiny_lpips().double()
    reference, decoded = (clips.abs() + 0.1 for clips in random_clips(1, 3, 2, 4, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda clips: lpips(reference, clips), decoded.requires_grad_())
    lpips(reference, decoded).sum().backward()
    assert decoded.grad[:, :2].abs().max() > 0.01


@pytest.fixture(scope="module")
def vgg16_weights():
    """Random ones, called and shaped as torchvision's and LPIPS's files have them; activations stay near unit size."""
    generator = torch.Generator().manual_seed(0)
    weights = {"classifier.0.weight": torch.zeros(2, 2)}
    for index, (i, o) in VGG16.items():
        weights[f"features.{index}.weight"] = torch.randn(o, i, 3, 3, generator=generator) * math.sqrt(2 / (9 * i))
        weights[f"features.{index}.bias"] = torch.randn(o, generator=generator) * 0.1
    lins = [torch.rand(1, width, 1, 1, generator=generator) for width in (64, 128, 256, 512, 512)]
    return weights, {f"lin{layer}.model.1.weight": lin for layer, lin in enumerate(lins)}


def layer_by_layer(weights, a, b):
    """LPIPS of pictures (N, 3, H, W) in [-1, 1], from the indices of torchvision's layers."""
    shift, scale = (torch.tensor(x).view(3, 1, 1) for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    a, b, total = (a - shift) / scale, (b - shift) / scale, 0
    for index in range(30):
        for_both = torch.cat([a, b])
        if index in VGG16:
            name = f"features.{index}"
            for_both = F.conv2d(for_both, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        else:
            for_both = F.max_pool2d(for_both, 2) if index in POOLS else F.relu(for_both)
        a, b = for_both.chunk(2)
        if index in TAPS:
            difference = a / (a.square().sum(1, True).sqrt() + 1e-10) - b / (b.square().sum(1, True).sqrt() + 1e-10)
            lin = weights[f"lin{TAPS.index(index)}.model.1.weight"]
            total = total + F.conv2d(difference.square(), lin).mean(dim=(1, 2, 3))
    return total


def test_lpips_is_vgg16s_layer_by_layer(vgg16_weights, tmp_path):
    vgg16, lins = vgg16_weights
    torch.save(vgg16, tmp_path / "vgg16.pth", _use_new_zipfile_serialization=False)  # as torchvision's is
    torch.save(lins, tmp_path / "vgg.pt")
    renamed = {name.replace("lin", "lins."): value for name, value in lins.items()}
    safetensors.torch.save_file(renamed, tmp_path / "vgg.safetensors")
    reference, decoded = random_clips(2, 3, 2, 32, 48)
    pictures = (clips.transpose(1, 2).reshape(4, 3, 32, 48) for clips in (reference, decoded))
    expected = layer_by_layer(vgg16 | lins, *pictures).view(2, 2)
    assert expected.min() > 0.1
    for layers in ("vgg.pt", "vgg.safetensors"):
        lpips = load_lpips([tmp_path / "vgg16.pth", str(tmp_path / layers)])
        assert lpips(reference, decoded) == pytest.approx(expected, rel=1e-4)
        assert not lpips.training and not any(weight.requires_grad for weight in lpips.parameters())
    assert torch.equal(lpips(reference, reference), torch.zeros(2, 2))
    torch.save(lpips.state_dict(), tmp_path / "ours.pt")
    assert torch.equal(load_lpips(tmp_path / "ours.pt")(reference, decoded), lpips(reference, decoded))


def test_files_that_lack_weights_are_refused(vgg16_weights, tmp_path):
    vgg16, lins = vgg16_weights[0], dict(vgg16_weights[1])
    lacking = {name: value for name, value in vgg16.items() if name != "features.28.bias"}
    torch.save({**lacking, "features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "vgg16.pth")
    del lins["lin2.model.1.weight"]
    torch.save({**lins, "lin5.model.1.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"2 missing \(features\.28\.bias, lin2\.model\.1\.weight\)") as caught:
        load_lpips([tmp_path / "vgg16.pth", tmp_path / "vgg.pth"])
    message = str(caught.value)
    assert "features.0.weight is float 64x3x5x5, expected float 64x3x3x3" in message
    assert "1 not of this model (lin5.model.1.weight)" in message
    assert "vgg16-397923af.pth" in message and "richzhang/PerceptualSimilarity" in message
    with pytest.raises(ValueError, match=r"27 missing \(features\.0\.weight"):
        load_lpips(tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"no file: not LPIPS on VGG16: of 31 weights, 31 missing"):
        load_lpips([])


def test_files_that_are_none_of_weights_are_refused(tmp_path):
    torch.save({"features.0.weight": re.compile("no tensor")}, tmp_path / "code.pth")
    for name, message in {"none.pth": "no such file", "vgg.onnx": "ends in '.onnx'", "code.pth": "is refused"}.items():
        with pytest.raises(ValueError, match=message):
            load_lpips(tmp_path / name)


@pytest.mark.parametrize("shape", [(1, 1, 1, 16, 16), (1, 3, 1, 16, 1)])
def test_lpips_refuses_clips_that_its_network_cannot_take(shape):
    with pytest.raises(ValueError, match=re.escape(f"{shape}: LPIPS takes 3 channels and frames of 2x2 or more")):
        tiny_lpips()(torch.zeros(shape), torch.zeros(shape))
