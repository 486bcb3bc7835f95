"""Every objective climbs, agrees with NumPy, and leaves its operands and the rest of the batch alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Direction, Objective, Unit, as_objective, neuron
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.places import Place
from neurolab.models.capture import capture
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model

LAST, MIDDLE = "layer4.0", "layer3.0"
RNG = torch.Generator().manual_seed(0)
MAP = torch.randn(3, 8, 4, 6, generator=RNG)
TOKENS = torch.randn(3, 17, 8, generator=RNG)
VECTOR = torch.randn(3, 8, generator=RNG)


def unit_vector(units: int, seed: int = 0) -> Tensor:
    return torch.randn(units, generator=torch.Generator().manual_seed(seed))


def assert_gradient_ascent(model: Model, objective: Objective, steps: int = 6) -> None:
    """A few steps along the gradient raise the objective of each of two pictures."""
    members = [objective.bind(model)] * 2
    batch = BatchObjective(members, model.device)
    image = FourierImage([0, 1], model.image_size)
    optimizer = torch.optim.Adam(image.parameters(), lr=0.02)
    history = []
    with capture(model, batch.sites) as acts:
        for _ in range(steps):
            optimizer.zero_grad()
            model.encode_image(image())
            values = batch(acts)
            assert values.shape == (2,)
            assert values.dtype == torch.float32
            (-values.sum()).backward()
            optimizer.step()
            history.append(values.detach())
    assert (history[-1] > history[0]).all(), history


CNN: dict[str, Callable[[], Objective]] = {
    "unit": lambda: Unit(LAST, 3),
    "unit by name": lambda: as_objective(f"{LAST}/3"),
    "unit, max": lambda: Unit(LAST, 3, "max"),
    "unit, centre": lambda: Unit(LAST, 3, "center"),
    "neuron": lambda: neuron(LAST, 3, (0, 1)),
    "unit of a vector": lambda: Unit("attnpool", 5),
    "direction": lambda: Direction(LAST, unit_vector(256)),
    "direction, cosine": lambda: Direction(LAST, unit_vector(256), power=2),
    "direction of a vector": lambda: Direction("attnpool", unit_vector(32), power=1),
    "sum": lambda: Unit(LAST, 3) + Unit(MIDDLE, 4),
    "difference": lambda: Unit(LAST, 3) - 0.5 * Unit(LAST, 4),
    "product": lambda: (1 + Unit(LAST, 3)) * (1 + Unit(LAST, 4)),
    "negative": lambda: -Unit(LAST, 3),
}
VIT: dict[str, Callable[[], Objective]] = {
    "mean of patches": lambda: Unit("block2.mlp", 7),
    "max of patches": lambda: Unit("block2.mlp", 7, "max"),
    "cls": lambda: Unit("block2", 7, "cls"),
    "token": lambda: Unit("block2", 7, 4),
    "neuron": lambda: neuron("block2", 7, (3, 0)),
    "centre": lambda: neuron("block2", 7),
    "head": lambda: Unit("block1.heads", 40),
    "direction": lambda: Direction("block2", unit_vector(64), power=2, where="cls"),
}


@pytest.mark.parametrize("make", CNN.values(), ids=CNN)
def test_gradient_ascent_in_a_resnet(tiny_clip: Model, make: Callable[[], Objective]) -> None:
    assert_gradient_ascent(tiny_clip, make())


@pytest.mark.parametrize("make", VIT.values(), ids=VIT)
def test_gradient_ascent_in_a_transformer(tiny_vit: Model, make: Callable[[], Objective]) -> None:
    assert_gradient_ascent(tiny_vit, make())


def test_units_of_a_map_agree_with_numpy() -> None:
    acts, values = {"s": MAP}, MAP.numpy()
    np.testing.assert_allclose(Unit("s", 5)(acts), values[:, 5].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(Unit("s", 5, "max")(acts), values[:, 5].max((1, 2)))
    np.testing.assert_allclose(Unit("s", 5, "center")(acts), values[:, 5, 2, 3])
    np.testing.assert_allclose(neuron("s", 5, (1, 4))(acts), values[:, 5, 1, 4])
    np.testing.assert_allclose(neuron("s", 5)(acts), values[:, 5, 2, 3])  # the centre
    np.testing.assert_allclose(Unit("s", 5)({"s": VECTOR}), VECTOR[:, 5])


def test_units_of_tokens_agree_with_numpy(tiny_vit: Model) -> None:
    site = find_site(tiny_vit, "block2").name
    acts = {site: TOKENS}
    patches = TOKENS[:, 1:].reshape(3, 4, 4, 8).numpy()

    def value(where: str | int | tuple[int, int]) -> Tensor:
        return Unit("block2", 5, where).bind(tiny_vit)(acts)

    np.testing.assert_allclose(value("mean"), patches[..., 5].mean((1, 2)), rtol=1e-5)  # CLS is no patch
    np.testing.assert_allclose(value("max"), patches[..., 5].max((1, 2)))
    np.testing.assert_allclose(value("center"), patches[:, 2, 2, 5])
    np.testing.assert_allclose(value((3, 1)), patches[:, 3, 1, 5])
    np.testing.assert_allclose(value("cls"), TOKENS[:, 0, 5])
    np.testing.assert_allclose(value(16), patches[:, 3, 3, 5])


@pytest.mark.parametrize("where", ["mean", "max", "center", "cls"])
def test_a_place_is_known_by_what_it_says(tiny_vit: Model, tiny_clip: Model, where: str) -> None:
    """Put together while the program runs, a word is another object of the same letters."""
    word = "".join(list(where))
    assert word is not where
    one, other = (Unit("block2", 5, w).bind(tiny_vit) for w in (where, word))
    assert one.signature() == other.signature() and one.formula == other.formula
    acts = {one.sites[0]: TOKENS}
    torch.testing.assert_close(other(acts), one(acts), rtol=0, atol=0)
    plain = replace(find_site(tiny_vit, "block2"), prefix_tokens=0, grid=None)  # of neither CLS nor places
    if where in ("cls", "center"):
        with pytest.raises(UnknownSiteError, match=f"no place '{where}'"):
            Place(word).bind(plain)
    if where == "cls":
        with pytest.raises(UnknownSiteError, match="no place 'cls'"):
            Unit(LAST, 1, word).bind(tiny_clip)
        return
    torch.testing.assert_close(Unit("s", 5, word)({"s": MAP}), Unit("s", 5, where)({"s": MAP}))
    assert Unit(LAST, 1, word).bind(tiny_clip).formula.startswith(where)
    if where == "mean":
        assert Unit("attnpool", 1, word).bind(tiny_clip).name == Unit("attnpool", 1).bind(tiny_clip).name


def numpy_direction(places: np.ndarray, vector: np.ndarray, power: float) -> np.ndarray:
    """Lucid's dot * max(.1, cos)^power of places [batch, places, units], the mean over the places."""
    dots = places @ vector
    cosines = dots / (1e-4 + np.linalg.norm(places, axis=-1)) / (1e-4 + np.linalg.norm(vector))
    return (dots * np.maximum(0.1, cosines) ** power).mean(1)


@pytest.mark.parametrize("power", [0, 1, 2.5])
def test_direction_agrees_with_numpy_item_by_item(power: float) -> None:
    vector = unit_vector(8)
    objective = Direction("s", vector, power=power)
    for acts, places in ((MAP, MAP.flatten(2).transpose(1, 2)), (TOKENS, TOKENS), (VECTOR, VECTOR[:, None])):
        expected = numpy_direction(places.numpy().astype(float), vector.numpy(), power)
        np.testing.assert_allclose(objective({"s": acts}), expected, rtol=2e-4, atol=1e-6)
        # An item alone has the same value: a dot that is summed over the batch has not.
        np.testing.assert_allclose(objective({"s": acts[1:2]}), expected[1:2], rtol=2e-4, atol=1e-6)


def test_items_have_no_gradient_through_each_other() -> None:
    acts = MAP.clone().requires_grad_()
    for objective in (Unit("s", 2), Direction("s", unit_vector(8), power=2), Unit("s", 1) * Unit("s", 2)):
        (gradient,) = torch.autograd.grad(objective({"s": acts})[1], acts)
        assert gradient[1].any()
        assert not gradient[[0, 2]].any()


def test_arithmetic_is_that_of_the_values() -> None:
    acts = {"s": MAP, "t": VECTOR}
    a, b = Unit("s", 1), Unit("t", 2)
    x, y = a(acts), b(acts)
    for objective, expected in (
        (a + b, x + y),
        (a - b, x - y),
        (a * b, x * y),
        (2 * a - 1, 2 * x - 1),
        (1 - a * 3, 1 - x * 3),
        (-(a + b) * 2, -(x + y) * 2),
        (a + "t/2", x + y),
        ("t/2" - a, y - x),
        (sum([a, b, a]), x + y + x),
    ):
        assert isinstance(objective, Objective)
        torch.testing.assert_close(objective(acts), expected)


def test_operands_are_never_changed() -> None:
    """Combining and scaling an objective again and again leaves it what it was."""
    acts = {"s": MAP}
    a, b = Unit("s", 1), Direction("s", unit_vector(8))
    before = [(o.name, o.formula, o.sites, o(acts)) for o in (a, b)]
    combined = a + b
    first = combined(acts)
    for _ in range(3):
        _ = 5 * combined - a * b
        _ = -a + combined * 2
    torch.testing.assert_close(combined(acts), first, rtol=0, atol=0)
    for o, (name, formula, sites, value) in zip((a, b), before, strict=True):
        assert (o.name, o.formula, o.sites) == (name, formula, sites)
        torch.testing.assert_close(o(acts), value, rtol=0, atol=0)


def test_direction_keeps_a_copy_of_its_vector() -> None:
    vector = unit_vector(8)
    objective = Direction("s", vector)
    before = objective({"s": MAP})
    vector.zero_()
    torch.testing.assert_close(objective({"s": MAP}), before)


def test_bind_gives_full_names_and_leaves_the_original(tiny_clip: Model) -> None:
    short = Unit(LAST, 7)
    bound = short.bind(tiny_clip)
    assert short.name == "layer4.0/7"
    assert bound.name == "visual.layer4.0.act3:in/7"
    assert bound.sites == ("visual.layer4.0.act3:in",)
    both = (short - 0.5 * Unit(LAST, 8, "max")).bind(tiny_clip)
    assert both.name == "visual.layer4.0.act3:in/7 - (0.5 * visual.layer4.0.act3:in/8)"
    assert both.formula == "mean(visual.layer4.0.act3:in/7) - (0.5 * max(visual.layer4.0.act3:in/8))"
    named = Direction(LAST, unit_vector(256), power=2, name="dogs").bind(tiny_clip)
    assert named.name == "visual.layer4.0.act3:in/dogs"
    assert "cos^2" in named.formula


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Unit(LAST, 256), "no unit 256: its units are 0 to 255"),
        (Unit("layer9.0", 1), "layer4.0"),
        (Unit(LAST, 1, "cls"), "no place 'cls'"),
        (Unit(LAST, 1, 0), "no place 0"),
        (Unit(LAST, 1, (2, 0)), "2 x 2"),
        (Unit("attnpool", 1, "center"), "single vector"),
        (Direction(LAST, unit_vector(9)), "9 numbers does not fit"),
        (Unit(LAST, 1) + Unit(LAST, 999), "no unit 999"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_model_has_not_is_refused(tiny_clip: Model, objective: Objective, message: str) -> None:
    with pytest.raises(UnknownSiteError, match=message):
        objective.bind(tiny_clip)


def test_nonsense_is_refused(tiny_vit: Model) -> None:
    for bad in (Unit("block2", 1, 17), Unit("block2", 1, (4, 0)), Unit("block2", 1, -1)):
        with pytest.raises(UnknownSiteError):
            bad.bind(tiny_vit)
    with pytest.raises(UnknownSiteError, match="SITE/NUMBER"):
        as_objective("layer4.0")
    with pytest.raises(ValueError, match="other than zero"):
        Direction("s", torch.zeros(4))
    with pytest.raises(ValueError, match="no place"):
        Unit("s", 1, "median")
