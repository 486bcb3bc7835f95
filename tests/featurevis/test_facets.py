"""The faceted objective against finite differences; what a facet refuses; what is shipped."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from neurolab.errors import FacetError
from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.facets import Facet, Faceted, Probe, find_facet, shipped_facets
from neurolab.featurevis.objectives import Direction, Objective, Unit
from neurolab.featurevis.regularizers import TotalVariation
from neurolab.featurevis.render import render
from neurolab.models.capture import capture
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model, load_model

RNG = torch.Generator().manual_seed(0)
MIXING = torch.randn(4, 3, generator=RNG)
W = torch.randn(3, generator=RNG)
W_SPATIAL = torch.randn(3, 2, 2, generator=RNG)


def lower(x: Tensor) -> Tensor:
    """A smooth map g, [items, 3, 2, 2]."""
    return torch.tanh(x) + 0.3 * x


def upper(a: Tensor) -> Tensor:
    """A smooth f of g's map that is not linear: its gradient changes with the map."""
    return torch.tanh(torch.einsum("uc,bchw->buhw", MIXING, a)).square()


def value(facet: Facet, x: Tensor, strength: float, rectified: bool) -> Tensor:
    a = lower(x)
    objective = Faceted(Unit("top", 1), facet, strength, rectified)
    return BatchObjective([objective] * len(x))({"low": a, "top": upper(a)})


def differences(f: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-4) -> Tensor:
    """df/dx by central differences, in float64."""
    result = torch.zeros_like(x)
    flat = result.view(-1)
    for i in range(x.numel()):
        moved = torch.zeros_like(x).view(-1)
        moved[i] = step
        moved = moved.view_as(x)
        flat[i] = (f(x + moved) - f(x - moved)) / (2 * step)
    return result


@pytest.mark.parametrize("weights", [W, W_SPATIAL], ids=["pooled", "spatial"])
@pytest.mark.parametrize("rectified", [True, False])
def test_the_objective_agrees_with_finite_differences(weights: Tensor, rectified: bool) -> None:
    """f + s w . (g * relu(grad f)), and its gradient with grad f held: all by differences, in float64."""
    facet, strength = Facet("theme", {"low": weights}, {}), 1.7
    x = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    wide = weights.double() if weights.ndim == 3 else weights.double()[:, None, None]

    def f_of(a: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("uc,bchw->buhw", MIXING.double(), a)).square()[0, 1].mean()

    held = differences(f_of, lower(x.double()))
    held = held.clamp_min(0) if rectified else held

    def published(at: Tensor) -> Tensor:
        a = lower(at)
        return f_of(a) + strength * (wide * a * held).sum()

    at = x.clone().requires_grad_()
    found = value(facet, at, strength, rectified)
    assert found.item() == pytest.approx(published(x.double()).item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(found, at)
    expected = differences(published, x.double())
    np.testing.assert_allclose(gradient.double(), expected, rtol=1e-3, atol=1e-5)

    def not_held(at: Tensor) -> Tensor:
        a = lower(at).requires_grad_()
        (slope,) = torch.autograd.grad(f_of(a), a)
        slope = slope.clamp_min(0) if rectified else slope
        return f_of(a.detach()) + strength * (wide * a.detach() * slope).sum()

    # Differentiating through grad f would be another ascent, and this test sees it.
    assert (differences(not_held, x.double()) - expected).abs().max() > 0.01


def test_strength_zero_is_the_unit_and_each_item_has_its_own() -> None:
    facet = Facet("theme", {"low": W}, {})
    x = torch.randn(3, 3, 2, 2, generator=RNG)
    a = lower(x.requires_grad_())
    acts = {"low": a, "top": upper(a)}
    strengths = [0.0, 1.0, 2.5]
    found = BatchObjective([Faceted(Unit("top", 1), facet, s) for s in strengths])(acts).detach()
    plain = Unit("top", 1)(acts).detach()
    full = BatchObjective([Faceted(Unit("top", 1), facet, 1.0)] * 3)(acts).detach() - plain
    torch.testing.assert_close(found, plain + torch.tensor(strengths) * full)
    assert full.abs().min() > 1e-4


def test_a_strength_means_the_same_whatever_the_size_of_the_site() -> None:
    """The same map at twice the resolution (captum sums over places, so that a larger layer pulls harder)."""
    facet = Facet("theme", {"low": W}, {})
    start = torch.randn(1, 3, 2, 2, generator=RNG)

    def term(x: Tensor) -> float:
        a = lower(x.requires_grad_())
        acts = {"low": a, "top": upper(a)}
        return float((BatchObjective([facet(Unit("top", 1))])(acts) - Unit("top", 1)(acts)).detach())

    larger = start.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert term(larger) == pytest.approx(term(start), rel=1e-4)


def test_items_of_a_mixed_batch_have_their_own_values_and_gradients() -> None:
    """In one batch with other facets and plain units: as each alone."""
    text, face = Facet("text", {"low": W}, {}), Facet("face", {"low": W_SPATIAL}, {})
    members: list[Objective] = [
        Faceted(Unit("top", 1), text, 2),
        Unit("top", 0),
        Faceted(Direction("top", [1.0, 2, 0, -1], power=1), face, 1, rectified=False),
        Faceted(Unit("top", 3), text, 0.5),
        Faceted(Unit("top", 2), face, 3),
    ]
    start = torch.randn(5, 3, 2, 2, generator=RNG)
    x = start.clone().requires_grad_()
    a = lower(x)
    values = BatchObjective(members)({"low": a, "top": upper(a)})
    values.sum().backward()
    for i, member in enumerate(members):
        alone = start[i : i + 1].clone().requires_grad_()
        low = lower(alone)
        one = BatchObjective([member])({"low": low, "top": upper(low)})
        one.sum().backward()
        torch.testing.assert_close(values[i : i + 1], one)
        torch.testing.assert_close(x.grad[i : i + 1], alone.grad)  # type: ignore[index]


def test_weights_of_tokens_leave_the_class_token_out(tiny_vit: Model) -> None:
    site = find_site(tiny_vit, "block1")
    activation = torch.randn(2, 17, 64, generator=RNG)
    pooled, spatial = torch.randn(64, generator=RNG), torch.randn(64, 4, 4, generator=RNG)
    patches = activation[:, 1:].double()
    found = Probe(pooled).bind(site, torch.device("cpu")).weighed(activation)
    np.testing.assert_allclose(found, (patches * pooled).sum((1, 2)), rtol=1e-4)
    found = Probe(spatial).bind(site, torch.device("cpu")).weighed(activation)
    expected = torch.einsum("bpu,up->b", patches, spatial.double().flatten(1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    vector = torch.randn(2, 64, generator=RNG)
    np.testing.assert_allclose(Probe(pooled).weighed(vector), vector @ pooled, rtol=1e-5)


def facet_at(model: Model, *sites: str, seed: int = 0) -> Facet:
    random = torch.Generator().manual_seed(seed)
    found = [find_site(model, site) for site in sites]
    weights = {site.name: torch.randn(site.units, generator=random) for site in found}
    return Facet("theme", weights, {"weights_hash": model.weights_hash, "model": model.name})


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_a_facet_draws_its_theme(tiny_clip: Model, tiny_vit: Model, kind: str) -> None:
    """Ascent raises the theme's share of the unit, and more than ascent on the unit alone does."""
    model, unit, low = (
        (tiny_clip, "layer4.0/3", "layer2.0") if kind == "cnn" else (tiny_vit, "block2.mlp/9", "block0")
    )
    facet = facet_at(model, low)
    settings = {"steps": 24, "transforms": "none", "progress": False}

    def share(picture: np.ndarray) -> float:
        objective = Faceted(Unit(*unit.split("/")[:1], int(unit.split("/")[1])), facet, 1.0).bind(model)
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        batch = BatchObjective([objective])
        with capture(model, batch.sites) as acts:
            model.encode_image(pixels.requires_grad_())
            whole = batch(acts)
            return float((whole - objective.base(acts)).detach())  # type: ignore[attr-defined]

    (plain,) = render(model, unit, **settings)  # type: ignore[arg-type]
    (themed,) = render(model, unit, facet=facet, strength=4, **settings)  # type: ignore[arg-type]
    assert share(themed.image) > share(plain.image)
    assert themed.facet == "theme"
    assert themed.name == plain.name
    assert "4 * theme" in themed.settings["objective"]
    assert plain.facet is None


def test_strengths_may_rise_over_the_batch(tiny_clip: Model) -> None:
    facet = facet_at(tiny_clip, "layer2.0")
    drawn = render(tiny_clip, 3 * ["layer4.0/3"], facet=facet, strength=[0, 1, 5], steps=3, progress=False)
    assert len({picture.image.tobytes() for picture in drawn}) == 3
    (plain,) = render(tiny_clip, "layer4.0/3", steps=3, progress=False)
    assert np.abs(drawn[0].image.astype(int) - plain.image.astype(int)).mean() < 0.05
    with pytest.raises(ValueError, match="2 strengths for 3 units"):
        render(tiny_clip, 3 * ["layer4.0/3"], facet=facet, strength=[1, 2], steps=1, progress=False)


def test_later_sites_are_left_out_and_none_is_refused(tiny_clip: Model) -> None:
    facet = facet_at(tiny_clip, "layer2.0", "layer4.0")
    bound = facet(Unit("layer3.0", 1)).bind(tiny_clip)
    assert bound.sites == ("visual.layer3.0.act3:in", "visual.layer2.0.act3:in")
    with pytest.raises(FacetError, match="no site before"):
        facet(Unit("layer1.0", 1)).bind(tiny_clip)
    with pytest.raises(FacetError, match="no site before TV"):
        facet(TotalVariation()).bind(tiny_clip)
    odd = Facet("odd", {"layer2.0": torch.ones(7)}, {})
    with pytest.raises(FacetError, match="7 does not fit"):
        odd(Unit("layer4.0", 1)).bind(tiny_clip)


def test_a_file_keeps_a_facet(tmp_path: Path, tiny_clip: Model) -> None:
    facet = facet_at(tiny_clip, "layer2.0", "layer3.0")
    again = Facet.load(facet.save(tmp_path / "deep" / "theme.npz"))
    assert (again.name, dict(again.about)) == (facet.name, dict(facet.about))
    for site, weights in facet.weights.items():
        torch.testing.assert_close(again.weights[site], weights, rtol=1e-3, atol=1e-4)  # float16
    assert find_facet(tmp_path / "deep" / "theme.npz", tiny_clip).name == "theme"
    with pytest.raises(FacetError, match="is no facet"):
        Facet.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(FacetError, match="is no facet"):
        Facet.load(tmp_path / "other.npz")


def test_weights_that_cannot_be_are_refused() -> None:
    for bad in (torch.zeros(3), torch.full((3,), torch.nan), torch.ones(3, 2)):
        with pytest.raises(FacetError, match="no finite"):
            Facet("bad", {"s": bad}, {})


def test_facets_of_another_network_are_refused(tiny_clip: Model) -> None:
    with pytest.raises(FacetError, match="text"):
        find_facet("txt", tiny_clip)
    with pytest.raises(FacetError, match="trained on pocket"):
        find_facet("text", tiny_clip)


def test_the_facets_that_ship_fit_the_pocket_and_state_their_accuracy() -> None:
    assert {"drawing", "face", "nature", "object", "photo", "text"} <= set(shipped_facets())
    pocket = load_model("pocket")
    for name in shipped_facets():
        facet = find_facet(name, pocket)
        assert facet.name == name
        assert set(facet.accuracy) == set(facet.weights)
        assert min(facet.accuracy.values()) > 0.6
        for site, weights in facet.weights.items():
            assert len(weights) == find_site(pocket, site).units
            assert weights.square().mean().sqrt().item() == pytest.approx(1, abs=0.01)
