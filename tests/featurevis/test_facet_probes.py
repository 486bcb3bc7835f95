from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from neurolab.errors import FacetError
from neurolab.featurevis.facet_probes import facet_sites, features, fit_probe, train_facet
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model, wrap_model


def pictures(folder: Path, red: bool, count: int = 24) -> Path:
    """Noise that is reddish, or bluish."""
    folder.mkdir()
    rng = np.random.default_rng(int(red))
    for i in range(count):
        noise = rng.integers(60, 180, (64, 64, 3))
        noise[..., 0 if red else 2] += 70
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("spatial", [0, 2])
def test_a_theme_is_learned_from_two_sources(tiny_clip: Model, tmp_path: Path, spatial: int) -> None:
    red, blue = pictures(tmp_path / "red", True), pictures(tmp_path / "blue", False)
    facet = train_facet("red", tiny_clip, red, blue, sites=["layer1.0", "layer2.0"], spatial=spatial)
    assert facet.name == "red"
    assert set(facet.weights) == {"visual.layer1.0.act3:in", "visual.layer2.0.act3:in"}
    assert min(facet.accuracy.values()) > 0.8
    assert (facet.about["positive"], facet.about["negative"]) == ("red", "blue")  # and not where they lie
    assert facet.about["images"] == [24, 24]
    assert facet.about["held_out"] == 12
    assert facet.about["weights_hash"] == tiny_clip.weights_hash
    for weights in facet.weights.values():
        assert weights.ndim == (3 if spatial else 1)
        assert weights.square().mean().item() == pytest.approx(1, rel=1e-4)
    # The other way round it is the opposite, and a theme that is none is not found.
    opposite = train_facet("blue", tiny_clip, blue, red, sites=["layer2.0"], spatial=spatial)
    site = "visual.layer2.0.act3:in"
    cosine = torch.cosine_similarity(facet.weights[site].flatten(), opposite.weights[site].flatten(), dim=0)
    assert cosine < -0.9


def test_a_theme_that_is_none_has_chance_accuracy(tiny_clip: Model, tmp_path: Path) -> None:
    one = pictures(tmp_path / "one", True, 40)
    (tmp_path / "other").mkdir()
    for path in list(one.iterdir())[::2]:
        path.rename(tmp_path / "other" / path.name)
    facet = train_facet("none", tiny_clip, one, tmp_path / "other", sites=["layer2.0"])
    assert 0.1 <= facet.accuracy["visual.layer2.0.act3:in"] <= 0.9


def test_probe_weights_are_those_of_raw_features() -> None:
    """A regression on standardized features, written as one on the features themselves."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [60, 100])
    values = rng.normal(size=(160, 5)) * [1, 10, 0.1, 3, 0] + labels[:, None] * [1, 5, 0, 0, 0]
    fitted = fit_probe(values, labels, penalty=1.0, seed=0)
    assert fitted.held_out == 40
    assert fitted.weights[4] == pytest.approx(0, abs=1e-9)  # it never varies
    train, _, train_labels, _ = train_test_split(
        values, labels, test_size=0.25, random_state=0, stratify=labels
    )
    sd = np.where(train.std(0) > 0, train.std(0), 1)
    regression = LogisticRegression(C=1.0, class_weight="balanced")
    direct = regression.fit((train - train.mean(0)) / sd, train_labels).coef_[0]
    np.testing.assert_allclose(fitted.weights * sd, direct, atol=1e-4)


def test_features_are_means_over_places(tiny_clip: Model, tiny_vit: Model) -> None:
    activation = torch.randn(2, 64, 8, 8)
    site = find_site(tiny_clip, "layer2.0")
    np.testing.assert_allclose(features(activation, site, 0), activation.mean((2, 3)), atol=1e-6)
    halves = activation.reshape(2, 64, 2, 4, 2, 4).mean((3, 5)).flatten(1)
    np.testing.assert_allclose(features(activation, site, 2), halves, atol=1e-6)
    tokens = torch.randn(2, 17, 64)
    block = find_site(tiny_vit, "block1")
    np.testing.assert_allclose(features(tokens, block, 0), tokens[:, 1:].mean(1), atol=1e-6)
    places = tokens[:, 1:].transpose(1, 2).flatten(1)
    np.testing.assert_allclose(features(tokens, block, 9), places, atol=1e-6)  # no more than the map has


def test_the_middle_of_a_network_is_read(tiny_clip: Model, tiny_vit: Model) -> None:
    assert facet_sites(tiny_vit) == ["visual.transformer.resblocks.1:out"]
    assert facet_sites(tiny_clip) == ["visual.layer2.0.act3:in", "visual.layer3.0.act3:in"]
    plain = wrap_model(torch.nn.Sequential(torch.nn.Flatten()), image_size=4)
    with pytest.raises(FacetError, match="no usual sites"):
        facet_sites(plain)


def test_too_few_images_are_refused(tiny_clip: Model, tmp_path: Path) -> None:
    red, blue = pictures(tmp_path / "red", True, 12), pictures(tmp_path / "blue", False, 3)
    with pytest.raises(FacetError, match=r"blue has 3 images .* negative side needs 8"):
        train_facet("red", tiny_clip, red, blue)
    with pytest.raises(FacetError, match=r"red has 5 images .* positive side"):
        train_facet("red", tiny_clip, red, red, limit=5)
