import numpy as np
import pytest
import torch
from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.activations import Rows
from neurolab.featurevis.batch import BatchObjective, batches_of
from neurolab.featurevis.objectives import Objective, Unit
from neurolab.featurevis.render import render
from neurolab.featurevis.together import Alignment, Diversity, Together, interpolation
from neurolab.models.capture import capture
from neurolab.models.zoo import Model

RNG = torch.Generator().manual_seed(0)
MAP = torch.randn(4, 5, 3, 2, generator=RNG)


def members(objective: Objective, count: int, views: int = 1) -> list[Objective]:
    """What the engine makes of `count` pictures of one objective: bound one by one, then once per view."""

    def bound(part: Objective) -> Objective:
        return part.stack([part]) if isinstance(part, Together) else part

    each = [bound(objective) for _ in range(count)]
    return [one for one in each for _ in range(views)]


def numpy_diversity(maps: np.ndarray, owners: list[int]) -> np.ndarray:
    """Lucid's: cosines of Gram matrices, the mean over the other pictures."""
    flat = maps.reshape(len(maps), maps.shape[1], -1)
    grams = [f @ f.T for f in flat]
    cosine = [[(a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) for b in grams] for a in grams]
    rows = range(len(maps))
    return np.array([-np.mean([cosine[i][j] for j in rows if owners[i] != owners[j]]) for i in rows])


def numpy_alignment(maps: np.ndarray, decay: float) -> np.ndarray:
    rows = range(len(maps))
    return np.array(
        [
            -sum(((maps[i] - maps[j]) ** 2).mean() / decay ** abs(i - j) for j in rows if 0 < abs(i - j) <= 4)
            for i in rows
        ]
    )


def test_diversity_agrees_with_numpy() -> None:
    value = BatchObjective(members(Diversity("s"), 4))({"s": MAP})
    np.testing.assert_allclose(value, numpy_diversity(MAP.numpy(), [0, 1, 2, 3]), rtol=1e-5)
    # Two views of each of two pictures: a picture is not held away from itself.
    value = BatchObjective(members(Diversity("s"), 2, views=2))({"s": MAP})
    np.testing.assert_allclose(value, numpy_diversity(MAP.numpy(), [0, 0, 1, 1]), rtol=1e-5)


def test_diversity_of_equal_and_of_unlike_pictures() -> None:
    same = MAP[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(BatchObjective(members(Diversity("s"), 3))({"s": same}), -torch.ones(3))
    unlike = torch.zeros(2, 2, 1, 1)
    unlike[0, 0], unlike[1, 1] = 1, 1
    assert not BatchObjective(members(Diversity("s"), 2))({"s": unlike}).any()
    moved = MAP[:1].flip(2)  # what is shown elsewhere is no other style
    both = torch.cat([MAP[:1], moved])
    torch.testing.assert_close(BatchObjective(members(Diversity("s"), 2))({"s": both}), -torch.ones(2))


def test_a_picture_alone_is_as_it_is() -> None:
    for objective in (Diversity("s"), Alignment("s")):
        assert BatchObjective(members(objective, 1))({"s": MAP[:1]}).tolist() == [0]


@pytest.mark.parametrize("decay", [1.0, 2.0])
def test_alignment_agrees_with_numpy(decay: float) -> None:
    maps = torch.randn(7, 5, 3, 2, generator=torch.Generator().manual_seed(1))
    value = BatchObjective(members(Alignment("s", decay=decay), 7))({"s": maps})
    np.testing.assert_allclose(value, numpy_alignment(maps.numpy(), decay), rtol=1e-4)


def test_other_groups_do_not_count() -> None:
    one, other = Diversity("s"), Diversity("s")
    mixed = [*members(one, 2), *members(other, 2)]
    value = BatchObjective([mixed[0], mixed[2], mixed[1], mixed[3]])({"s": MAP})
    alone = BatchObjective(members(one, 2))({"s": MAP[[0, 2]]})
    torch.testing.assert_close(value[[0, 2]], alone)


def test_each_picture_has_the_gradient_of_its_own_value() -> None:
    for objective in (Diversity("s"), Alignment("s")):
        acts = MAP.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(BatchObjective(members(objective, 4))({"s": acts})[1], acts)
        assert gradient[1].any()
        assert not gradient[[0, 2, 3]].any()


def test_of_an_objective_compares_what_it_asks_for() -> None:
    """a * df/da: where f is blind, two pictures may be alike at no cost."""
    base = torch.randn(2, 5, 3, 2, generator=RNG).requires_grad_()
    maps, weights = base * 1.0, torch.tensor([1.0, 0, 0, 0, 0])

    class Seen(Unit):
        def __call__(self, acts: Rows) -> Tensor:  # type: ignore[override]
            return (acts["s"] * weights[:, None, None]).square().sum((1, 2, 3)) / 2

    objective = Diversity("s", of=Seen("s", 0))
    value = BatchObjective(members(objective, 2))({"s": maps})
    # f's gradient is the map itself in unit 0 and nothing elsewhere.
    expected = numpy_diversity((maps.square() * weights[:, None, None]).detach().numpy(), [0, 1])
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-5)
    whole = BatchObjective(members(Diversity("s"), 2))({"s": maps})
    assert (value - whole).abs().min() > 0.01


def test_a_later_site_has_no_gradient(tiny_clip: Model) -> None:
    objective = Diversity("layer4.0", of=Unit("layer3.0", 3)).bind(tiny_clip)
    batch = BatchObjective([objective])
    with capture(tiny_clip, batch.sites) as acts:
        tiny_clip.encode_image(torch.rand(1, 3, 64, 64).requires_grad_())
        with pytest.raises(UnknownSiteError, match="earlier site"):
            batch(acts)


def test_pictures_that_belong_together_share_a_batch() -> None:
    a, b = Diversity("s"), Alignment("s")
    plain = Unit("s", 1)
    objectives: list[Objective] = [plain, plain + a, plain, plain + b, plain + a, plain + a + b, plain]
    assert batches_of(objectives, 2) == [[0], [1, 3, 4, 5], [2, 6]]
    assert batches_of([plain] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert batches_of([plain + a] * 3, 16) == [[0, 1, 2]]
    with pytest.raises(ValueError, match="at least one"):
        batches_of([plain], 0)


def spread(model: Model, weight: float, units: int = 3) -> float:
    """How alike in style pictures of one unit get: the mean cosine of their Gram matrices."""
    apart = Diversity("layer3.0")
    objective: Objective = Unit("layer4.0", 3) + weight * apart if weight else Unit("layer4.0", 3)
    drawn = render(model, units * [objective], seed=range(units), steps=24, transforms="none", progress=False)
    images = torch.stack([torch.from_numpy(p.image.copy()) for p in drawn]).permute(0, 3, 1, 2) / 255
    with capture(model, ["layer3.0"]) as acts, torch.no_grad():
        model.encode_image(images)
    return float(-numpy_diversity(acts["layer3.0"].numpy(), list(range(units))).mean())


def test_pictures_are_drawn_apart(tiny_clip: Model) -> None:
    assert spread(tiny_clip, 5.0) < spread(tiny_clip, 0) - 0.05


def test_interpolation_leads_from_one_to_the_other() -> None:
    acts = {"s": MAP[:1]}
    a, b = Unit("s", 1)(acts), Unit("s", 2)(acts)
    values = [objective(acts) for objective in interpolation("s/1", "s/2", 5)]
    for i, value in enumerate(values):
        torch.testing.assert_close(value, a + (b - a) * i / 4)
    with pytest.raises(ValueError, match="at least 2"):
        interpolation("s/1", "s/2", 1)


def test_aligned_interpolations_are_more_alike(tiny_clip: Model) -> None:
    """Between neighbours, at the site where they are aligned, with one seed: closer than without."""

    def distance(objectives: list[Objective]) -> float:
        drawn = render(tiny_clip, objectives, steps=24, transforms="none", progress=False)
        images = torch.stack([torch.from_numpy(p.image.copy()) for p in drawn]).permute(0, 3, 1, 2) / 255
        with capture(tiny_clip, ["layer2.0"]) as acts, torch.no_grad():
            tiny_clip.encode_image(images)
        found = acts["layer2.0"]
        return float((found[1:] - found[:-1]).square().mean())

    plain = interpolation("layer4.0/3", "layer4.0/9", 4)
    aligned = Alignment("layer2.0")
    assert distance([one + 30 * aligned for one in plain]) < 0.7 * distance(plain)
