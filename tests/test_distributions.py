import torch
from pyro.distributions import MixtureOfDiagNormals, Normal
from torch import Tensor

from dood_pyro.models.distributions import AutoregressivePoints, CorrelatedPoints
from dood_pyro.models.networks import AutoregressiveHead, IntervalTransform


def chain(batch: int = 3) -> tuple[AutoregressivePoints, AutoregressiveHead, Tensor]:
    torch.manual_seed(0)
    head = AutoregressiveHead(
        6, 16, 4, 5, IntervalTransform([-1.2, -1.2], [1.2, 1.2]), 0.3
    ).double()
    features = torch.randn(batch, 6, dtype=torch.float64)
    return AutoregressivePoints(head, features, (4, 2)), head, features


def test_a_point_depends_on_those_before_it_alone() -> None:
    _, head, features = chain()
    points = torch.randn(3, 4, 2, dtype=torch.float64)
    for moved in range(4):
        other = points.clone()
        other[:, moved] += 0.1
        for before, after in zip(head(features, points), head(features, other), strict=True):
            same = [torch.equal(before[:, j], after[:, j]) for j in range(4)]
            assert same[: moved + 1] == [True] * (moved + 1)
        means = [head(features, which)[0] for which in (points, other)]
        # What follows the moved point at once is displaced from it.
        assert moved == 3 or not torch.allclose(means[0][:, moved + 1], means[1][:, moved + 1])


def test_the_density_is_that_of_what_is_drawn() -> None:
    """Samples' moments against those that weighting by the density gives to a broad proposal."""
    distribution, _, _ = chain(1)
    with torch.no_grad():
        drawn = distribution.expand((20_000,)).sample()
        proposal = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
        broad = proposal.sample((400_000, 4, 2))
        log_weight = distribution.log_prob(broad) - proposal.log_prob(broad).sum((-1, -2))
    weight = log_weight.exp()
    assert abs(float(weight.mean()) - 1) < 0.05
    weighted = (weight[:, None, None] * broad).mean(0)
    torch.testing.assert_close(drawn.mean(0), weighted, atol=0.05, rtol=0)
    second = (weight[:, None, None] * broad[:, :1] * broad).mean(0)
    torch.testing.assert_close((drawn[:, :1] * drawn).mean(0), second, atol=0.05, rtol=0)


def test_the_first_point_is_from_a_plain_mixture() -> None:
    distribution, head, features = chain()
    points = torch.zeros(3, 4, 2, dtype=torch.float64)
    mean, std, logits = (t[:, 0] for t in head(features, points))
    first = MixtureOfDiagNormals(mean, std, logits).log_prob(points[:, 0])
    rest = [MixtureOfDiagNormals(*(t[:, j] for t in head(features, points))) for j in (1, 2, 3)]
    total = first + sum(fn.log_prob(points[:, 0]) for fn in rest)
    torch.testing.assert_close(distribution.log_prob(points), total)


def test_it_samples_and_expands_over_particles() -> None:
    distribution, _, _ = chain()
    distribution = distribution.expand((5, 3))
    assert distribution.batch_shape == (5, 3)
    assert distribution.sample().shape == (5, 3, 4, 2)
    assert distribution.log_prob(torch.zeros(5, 3, 4, 2, dtype=torch.float64)).shape == (5, 3)


def test_correlated_points_without_correlation_are_independent() -> None:
    torch.manual_seed(0)
    loc, std = torch.randn(3, 4, 2), torch.rand(3, 4, 2) + 0.1
    joint = CorrelatedPoints(loc, torch.diag_embed(std.flatten(-2)))
    points = torch.randn(6, 3, 4, 2)
    torch.testing.assert_close(
        joint.log_prob(points), Normal(loc, std).to_event(2).log_prob(points)
    )
    torch.testing.assert_close(joint.stddev, std)


def test_correlated_points_move_together() -> None:
    torch.manual_seed(0)
    tril = torch.eye(8) + 0.5 * torch.randn(8, 8).tril(-1)
    joint = CorrelatedPoints(torch.randn(4, 2), tril).expand((50_000,))
    drawn = joint.rsample()
    assert drawn.shape == (50_000, 4, 2) and joint.log_prob(drawn).shape == (50_000,)
    covariance = torch.cov(drawn.flatten(1).T)
    torch.testing.assert_close(covariance, tril @ tril.T, atol=0.08, rtol=0.05)
    torch.testing.assert_close(drawn.std(0), joint.stddev[0], atol=0.05, rtol=0)
