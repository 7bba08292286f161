"""FVD: the distance against closed forms, statistics in batches against numpy, and what I3D is given."""

import math
import re
import warnings

import numpy as np
import pytest
import torch

from vidtok_model.metrics import FeatureStatistics, FrechetDistance, frechet_distance, load_i3d, video_features


def rotated(eigenvalues, seed=0):
    """A covariance with these eigenvalues; those of one seed and size commute."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return torch.from_numpy(basis @ np.diag(eigenvalues) @ basis.T)


def correlated(count, num_features, seed, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, num_features)) @ rng.standard_normal((num_features, num_features)) + offset


@pytest.mark.parametrize(
    ("a", "b", "tolerance"),
    [
        ([1.0, 4.0, 9.0, 0.25, 2.0], [4.0, 1.0, 9.0, 0.5, 3.0], 1e-12),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0], 1e-12),
        # An eigenvalue of zero comes out as 1e-16 of the largest, and its root counts.
        ([1.0, 4.0, 9.0, 0.25, 2.0], [4.0, 0.0, 9.0, 0.0, 3.0], 1e-7),
        ([0.0, 0.0, 1.0, 1e6, 1e-2], [7.0, 0.0, 0.0, 1e6, 4e-2], 1e-4),
    ],
)
def test_frechet_distance_of_gaussians_is_the_closed_form(a, b, tolerance):
    # Where covariances commute, it is that of the standard deviations: |m_a - m_b|^2 + sum (sqrt(a) - sqrt(b))^2.
    mean_a, mean_b = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.5, 2.0, 1.0, 4.0, 5.0])
    expected = 0.25 + 4.0 + float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    got = frechet_distance(mean_a, rotated(a), mean_b, rotated(b))
    assert got == pytest.approx(expected, rel=tolerance)


def test_frechet_distance_of_covariances_that_do_not_commute():
    # For 2x2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)); here det A = 5, det B = 3.75, tr(A B) = 13.
    a, b = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([[1.0, -0.5], [-0.5, 4.0]])
    expected = 5 + 5 - 2 * math.sqrt(13 + 2 * math.sqrt(5 * 3.75))
    for first, second in ((a, b), (b, a)):
        assert frechet_distance(torch.zeros(2), first, torch.zeros(2), second) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_what_is_not_finite_is_nan():
    bad = torch.tensor([[1.0, math.nan], [math.nan, 1.0]])
    assert math.isnan(frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), bad))
    assert math.isnan(frechet_distance(torch.tensor([0.0, math.inf]), torch.eye(2), torch.zeros(2), torch.eye(2)))


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [1, 0, 7, 32]])
def test_statistics_in_batches_are_numpys_of_all(sizes, offset):
    features = correlated(40, 6, seed=1, offset=offset)
    statistics = FeatureStatistics()
    for batch in np.split(features, np.cumsum(sizes)[:-1]):
        statistics.update(torch.from_numpy(batch))
    assert statistics.count == 40
    assert statistics.mean().numpy() == pytest.approx(features.mean(axis=0), rel=1e-12, abs=1e-12)
    # To numpy, without the offset: so nothing of its own rounding is in the comparison.
    expected = np.cov(features - offset, rowvar=False)
    assert statistics.covariance().numpy() == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_statistics_of_single_precision_are_computed_in_double():
    features = correlated(9, 3, seed=5, offset=100.0).astype(np.float32)
    statistics = FeatureStatistics()
    statistics.update(torch.from_numpy(features[:4]))
    mean = statistics.mean()
    statistics.update(torch.from_numpy(features[4:]))
    assert mean.numpy() == pytest.approx(features[:4].astype(float).mean(axis=0), rel=1e-14)  # as it was then
    expected = np.cov(features.astype(float), rowvar=False)
    assert statistics.covariance().numpy() == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_distance_of_two_sets_is_that_of_their_moments():
    reference, decoded = correlated(50, 4, seed=2), correlated(30, 4, seed=3, offset=0.5)
    distance = FrechetDistance()
    distance.update(torch.from_numpy(reference[:20]), torch.from_numpy(decoded))
    distance.update(torch.from_numpy(reference[20:]), torch.from_numpy(decoded[:0]))
    a, b = np.cov(reference, rowvar=False), np.cov(decoded, rowvar=False)
    root_trace = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    shift = ((reference.mean(axis=0) - decoded.mean(axis=0)) ** 2).sum()
    assert distance.compute() == pytest.approx(shift + np.trace(a) + np.trace(b) - 2 * root_trace, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_equal_sets_have_no_distance_even_with_fewer_clips_than_features(seed):
    features = torch.from_numpy(correlated(5, 40, seed))
    distance = FrechetDistance()
    distance.update(features, features)
    assert 0.0 <= distance.compute() < 1e-10
    distance.update(features + 1, features)
    assert distance.compute() > 1.0


@pytest.mark.parametrize(("reference", "decoded"), [(0, 0), (1, 2), (2, 1)])
def test_fewer_than_two_clips_have_no_distance(reference, decoded):
    distance = FrechetDistance()
    distance.update(torch.ones(reference, 3), torch.ones(decoded, 3))
    with pytest.raises(ValueError, match=r"the features of [01] clip\(s\) came: expected at least [12]"):
        distance.compute()


def test_no_features_have_no_mean():
    with pytest.raises(ValueError, match=r"the features of 0 clip\(s\) came: expected at least 1"):
        FeatureStatistics().mean()


def test_features_of_another_shape_are_refused():
    statistics = FeatureStatistics()
    with pytest.raises(ValueError, match=re.escape("shape (2, 3, 1): expected (B, D)")):
        statistics.update(torch.zeros(2, 3, 1))
    statistics.update(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=re.escape("shape (2, 4): expected (B, 3)")):
        statistics.update(torch.zeros(2, 4))


class StandInI3d(torch.nn.Module):
    """Gives, of each clip, the least and the greatest value, and one pixel: blue, tenth frame, second row, third."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale and resize and return_features
        flat = x.flatten(1)
        return torch.stack([flat.amin(1), flat.amax(1), x[:, 2, 9, 1, 2]], dim=1)


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, but what I3D comes in
        torch.jit.script(StandInI3d()).save(str(path))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_i3d_is_given_pixels_up_to_255_and_asked_for_features(i3d_file, dtype):
    clips = torch.zeros(2, 3, 10, 4, 4, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        clips[0, 0, 0, 0, 0], clips[0, 1, 0, 0, 0], clips[0, 2, 9, 1, 2] = -1, 1, 0.5
        clips[1, 0, 0, 0, 0], clips[1, 1, 0, 0, 0] = -7, 7  # clamped
    features = video_features(load_i3d(i3d_file), clips)
    assert features.dtype == torch.float64 and not features.requires_grad
    assert features.tolist() == [[0.0, 255.0, 191.25], [0.0, 255.0, 127.5]]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(1, 3, 9, 8, 8), "clips of 9 frames, shape (1, 3, 9, 8, 8): I3D takes 10 or more"),
        (torch.zeros(1, 10, 3, 8, 8), "clips of shape (1, 10, 3, 8, 8), torch.float32: expected floats"),
        (torch.zeros(10, 3, 10, 8), "clips of shape (10, 3, 10, 8), torch.float32: expected floats"),
        (torch.zeros(1, 3, 10, 8, 8, dtype=torch.uint8), "torch.uint8: expected floats in [-1, 1]"),
    ],
)
def test_clips_that_i3d_cannot_take_are_refused(i3d_file, clips, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        video_features(load_i3d(i3d_file), clips)


def test_a_file_that_is_no_torchscript_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("not found")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    for name in ("text.pt", "weights.pt"):
        with pytest.raises(ValueError, match=rf"{name} can't be read as TorchScript .*universome/stylegan-v"):
            load_i3d(tmp_path / name)
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match=r"there is no such file; .*universome/stylegan-v names its link"):
            load_i3d(path)
