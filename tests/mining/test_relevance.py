"""Relevance to an output: against plain autograd, captum's layer methods, closed forms and sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import neurolab
from neurolab.errors import AtlasError, MissingTextTowerError, UnknownSiteError
from neurolab.mining.relevance import Direction, Logit, Target, Text, rank_by_relevance, relevance
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model
from tests.mining.small_build import NoiseSource


class Classifier(nn.Module):
    """Two convolutions without biases, with ReLUs and pooling, and a linear head: piecewise linear."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, bias=bias)
        self.second = nn.Conv2d(6, 6, 3, bias=bias)
        self.relu = nn.ReLU(inplace=True)  # one module, used twice
        self.head = nn.Linear(6, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def classifier() -> Model:
    torch.manual_seed(2)
    return wrap_model(Classifier(), image_size=(17, 21))


def random_images(model: Model, count: int = 3) -> Tensor:
    return torch.rand(count, 3, *model.image_size, generator=torch.Generator().manual_seed(7))


def random_pictures(count: int, size: int = 40) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((size + 8, size), Image.Resampling.BICUBIC) for pixels in coarse]


def by_autograd(model: Model, images: Tensor, site: str, target: Target) -> Tensor:
    """Activation times gradient, both by torch."""
    with capture(model, [site], gradients=True, stop=False) as acts:
        output = model.encode_image(images)
        assert output is not None
        target.score(model)(output).sum().backward()
    gradient = acts[site].grad
    assert gradient is not None
    return (gradient * acts[site]).detach()


SITES_OF_CLASSIFIER = ["first", "second", "relu#0:in", "relu:in", "relu:out", "head:in"]


@pytest.mark.parametrize("site", SITES_OF_CLASSIFIER)
def test_it_is_gradient_times_activation(classifier: Model, site: str) -> None:
    images, target = random_images(classifier), Logit(2)
    torch.testing.assert_close(
        relevance(classifier, images, site, target), by_autograd(classifier, images, site, target)
    )


@pytest.mark.parametrize(
    ("model_name", "site"),
    [
        ("tiny_clip", "layer3.0"),
        ("tiny_clip", "stem.act2"),
        ("tiny_clip", "attnpool.heads"),
        ("tiny_vit", "block0"),
        ("tiny_vit", "block1.mlp"),
        ("tiny_vit", "block2.heads"),
    ],
)
@pytest.mark.parametrize("target", [Text("a zebra"), Direction(np.arange(32) - 9.0)], ids=str)
def test_it_is_gradient_times_activation_in_clip(
    request: pytest.FixtureRequest, model_name: str, site: str, target: Target
) -> None:
    model: Model = request.getfixturevalue(model_name)
    images = random_images(model)
    found, expected = relevance(model, images, site, target), by_autograd(model, images, site, target)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert found.abs().max() > 0


@pytest.mark.parametrize(
    ("site", "path", "at_input"),
    [
        ("layer3.0", "visual.layer3.0.act3", True),
        ("visual.layer2.0.conv2:out", "visual.layer2.0.conv2", False),
    ],
)
def test_it_is_what_captums_layer_method_says(tiny_clip: Model, site: str, path: str, at_input: bool) -> None:
    from captum.attr import LayerGradientXActivation

    target = Text("a zebra")
    score, layer = target.score(tiny_clip), tiny_clip.module.get_submodule(path)

    def forward(images: Tensor) -> Tensor:
        output = tiny_clip.encode_image(images)
        assert output is not None
        return score(output)

    images = random_images(tiny_clip)
    method = LayerGradientXActivation(forward, layer)
    theirs = method.attribute(images.clone().requires_grad_(), attribute_to_layer_input=at_input).detach()
    ours = relevance(tiny_clip, images, site, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(("model_name", "site"), [("tiny_clip", "layer3.0"), ("tiny_vit", "block1.mlp")])
def test_integrated_is_the_mean_gradient_on_the_way_from_nothing(
    request: pytest.FixtureRequest, model_name: str, site: str
) -> None:
    """By Gauss and Legendre's rule, as captum's default, with plain autograd."""
    model: Model = request.getfixturevalue(model_name)
    images, target, total = random_images(model), Text("a zebra"), torch.zeros(())
    nodes, weights = np.polynomial.legendre.leggauss(5)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        scaled: list[Tensor] = []

        def scale(value: Tensor, node: float = node, scaled: list[Tensor] = scaled) -> Tensor:
            scaled.append((node * value).detach().requires_grad_())
            return scaled[0].clone()

        with capture(model, edit={site: scale}):
            output = model.encode_image(images)
        assert output is not None
        (gradient,) = torch.autograd.grad(target.score(model)(output).sum(), scaled)
        total = total + weight * gradient * scaled[0].detach() / node
    found = relevance(model, images, site, target, method="integrated", steps=5)
    torch.testing.assert_close(found, total, rtol=1e-3, atol=1e-3 * float(total.abs().max()))


def test_a_linear_heads_relevance_is_weight_times_activation(classifier: Model) -> None:
    images = random_images(classifier)
    with torch.no_grad(), capture(classifier, ["head:in"]) as acts:
        classifier.encode_image(images)
    head = classifier.module.get_submodule("head")
    expected = acts["head:in"] * head.weight[1]  # type: ignore[index,operator]
    torch.testing.assert_close(relevance(classifier, images, "head:in", Logit(1)), expected)


@pytest.mark.parametrize("site", SITES_OF_CLASSIFIER)
def test_without_biases_relevances_add_up_to_the_logit(classifier: Model, site: str) -> None:
    """Euler: of a function with f(t x) = t f(x) the gradient times x is f(x). Biases break it."""
    images = random_images(classifier)
    with torch.no_grad():
        logits = classifier.encode_image(images)
    assert logits is not None
    total = relevance(classifier, images, site, Logit(3)).flatten(1).sum(1)
    torch.testing.assert_close(total, logits[:, 3], rtol=1e-4, atol=1e-6)
    torch.manual_seed(2)
    biased = wrap_model(Classifier(bias=True), image_size=(17, 21))
    with torch.no_grad():
        logits = biased.encode_image(images)
    assert logits is not None
    total = relevance(biased, images, site, Logit(3)).flatten(1).sum(1)
    assert (total - logits[:, 3]).abs().max() > 1e-2


@pytest.mark.parametrize(("model_name", "site"), [("tiny_clip", "layer3.0"), ("tiny_vit", "block1.mlp")])
def test_integrated_relevances_add_up_to_the_difference(
    request: pytest.FixtureRequest, model_name: str, site: str
) -> None:
    model: Model = request.getfixturevalue(model_name)
    images, target = random_images(model), Text("a zebra")

    def cosine(edit: float) -> Tensor:
        with torch.no_grad(), capture(model, edit={site: lambda value: edit * value}):
            output = model.encode_image(images)
        assert output is not None
        return target.score(model)(output)

    difference = cosine(1.0) - cosine(0.0)
    whole = relevance(model, images, site, target, method="integrated", steps=100).flatten(1).sum(1)
    torch.testing.assert_close(whole, difference, rtol=2e-2, atol=2e-4)
    plain = relevance(model, images, site, target).flatten(1).sum(1)
    assert (plain - difference).abs().max() > 5 * (whole - difference).abs().max()


def test_text_is_the_cosine_with_the_texts_embedding(tiny_clip: Model) -> None:
    images = random_images(tiny_clip)
    with torch.no_grad():
        output = tiny_clip.encode_image(images)
        text = tiny_clip.encode_text("a zebra")
        assert output is not None
        expected = F.normalize(output, dim=1) @ F.normalize(text, dim=1)[0]
    torch.testing.assert_close(Text("a zebra").score(tiny_clip)(output), expected)
    torch.testing.assert_close(Direction(7 * text[0].numpy()).score(tiny_clip)(output), expected)


def ranked_by_hand(
    model: Model, pictures: Sequence[Image.Image], site: str, target: Target, prefix: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Relevances [images, units], and the place of the largest of each, one image at a time."""
    values, places = [], []
    for picture in pictures:
        found = by_autograd(model, model.preprocess(picture)[None], site, target)[0].numpy()
        if prefix is None:
            values.append(found.sum((1, 2), dtype=np.float64))
            places.append(found.reshape(len(found), -1).argmax(1))
        else:
            values.append(found.sum(0, dtype=np.float64))
            places.append(found[prefix:].argmax(0))
    return np.stack(values), np.stack(places)


@pytest.mark.parametrize(
    ("model_name", "site", "prefix"), [("tiny_clip", "layer3.0", None), ("tiny_vit", "block1", 1)]
)
def test_a_ranking_is_the_sorted_sums(
    request: pytest.FixtureRequest, model_name: str, site: str, prefix: int | None
) -> None:
    model: Model = request.getfixturevalue(model_name)
    pictures, target = random_pictures(11), Text("a zebra")
    values, places = ranked_by_hand(model, pictures, site, target, prefix)
    found = rank_by_relevance(model, pictures, site, target, k=4, batch_size=4, progress=False)
    order = np.argsort(-values, axis=0, kind="stable")[:4].T
    near = 1e-4 * np.abs(values).max()
    np.testing.assert_allclose(found.values, np.take_along_axis(values.T, order, 1), rtol=1e-3, atol=near)
    clear = (np.diff(np.sort(-values, axis=0)[:5], axis=0) > near).all(axis=0)  # no two that nearly tie
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found.images[clear], order[clear])
    units = np.arange(values.shape[1])[:, None]
    assert (found.position[clear] == places[order, units][clear]).mean() > 0.99
    assert found.count == 11 and found.keys == {int(i): str(i) for i in np.unique(found.images)}
    assert found.target == '"a zebra"' and found.grid == (4, 4)


def test_some_units_and_other_batches_give_the_same(classifier: Model) -> None:
    pictures = random_pictures(9)
    whole = rank_by_relevance(classifier, pictures, "second", Logit(0), k=9, progress=False)
    some = rank_by_relevance(
        classifier, pictures, "second", Logit(0), units=[4, 1], k=3, batch_size=2, progress=False
    )
    np.testing.assert_array_equal(some.units, [1, 4])
    np.testing.assert_array_equal(some.images, whole.images[[1, 4], :3])
    np.testing.assert_allclose(some.values, whole.values[[1, 4], :3], rtol=1e-4, atol=1e-7)


def test_relevance_is_signed_and_ties_go_to_the_earlier_image(classifier: Model) -> None:
    pictures = random_pictures(5)
    found = rank_by_relevance(classifier, [*pictures, *pictures], "second", Logit(0), k=12, progress=False)
    assert (found.images[:, 10:] == -1).all() and np.isneginf(found.values[:, 10:]).all()
    first, second = found.images[:, 0:10:2], found.images[:, 1:10:2]
    tied = found.values[:, 0:10:2] == found.values[:, 1:10:2]
    assert tied.mean() > 0.9
    assert (first < second)[tied].all() and (
        (second - first)[tied & (found.values[:, 0:10:2] != 0)] == 5
    ).all()
    assert (found.values[:, :10] < 0).any() and (found.values[:, :10] > 0).any()


def test_activation_and_relevance_rank_differently(
    tiny_clip: Model, image_folder: Path, tmp_path: Path
) -> None:
    """The ranking's images are those of an atlas of the same source, which shows them as exemplars."""
    atlas = neurolab.mine(
        tiny_clip, image_folder, "layer3.0", tmp_path / "atlas", k=6, batch_size=8, workers=0, progress=False
    )
    found = rank_by_relevance(tiny_clip, image_folder, "layer3.0", Text("a zebra"), k=6, progress=False)
    assert found.count == len(atlas)
    exemplars = found.exemplars(atlas, 7)
    assert [exemplar.image for exemplar in exemplars] == found.images[7].tolist()
    assert [exemplar.value for exemplar in exemplars] == pytest.approx(found.values[7].tolist())
    assert [exemplar.key for exemplar in exemplars] == [atlas.image(i).key for i in found.images[7]]
    assert all(e.grid == (4, 4) and e.position == 4 * e.row + e.column for e in exemplars)  # type: ignore[operator]
    assert (exemplars[0].width, exemplars[0].height) == (
        atlas.image(exemplars[0].image).width,
        atlas.image(exemplars[0].image).height,
    )
    images = atlas.site("layer3.0").images
    assert np.mean([set(a) != set(b) for a, b in zip(images, found.images, strict=True)]) > 0.5
    with pytest.raises(UnknownSiteError, match="was not ranked"):
        found.exemplars(atlas, 999)
    foreign = rank_by_relevance(tiny_clip, random_pictures(3), "layer3.0", Text("a dog"), k=2, progress=False)
    with pytest.raises(AtlasError, match="key"):
        foreign.exemplars(atlas, 7)


def test_bad_images_drop_out(classifier: Model) -> None:
    found = rank_by_relevance(
        classifier, NoiseSource(), "second", Logit(0), k=2, batch_size=8, progress=False
    )
    assert found.count == 61
    pixels = NoiseSource()
    numbered = [r.key for r in pixels if r.key not in ("first/3", "second/25")]
    assert all(numbered[number] == key for number, key in found.keys.items())
    assert len(found.keys) <= 12


def test_keys_are_kept_of_the_best_only(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurolab.mining import relevance as module

    sizes = []
    needed = module._Best.needed

    def watched(best: module._Best) -> dict[int, str]:
        sizes.append(len(best._keys))
        return needed(best)

    monkeypatch.setattr(module._Best, "needed", watched)
    pictures = random_pictures(40, size=20)
    rank_by_relevance(
        classifier, pictures, "second", Logit(0), units=[0, 1], k=1, batch_size=2, progress=False
    )
    assert len(sizes) > 5 and max(sizes) <= 2 * 2 * 1 + 2


@pytest.mark.parametrize("site", ["head:out", "head:in"])
def test_vectors_have_no_place(classifier: Model, site: str) -> None:
    found = rank_by_relevance(classifier, random_pictures(3), site, Logit(1), k=2, progress=False)
    assert (found.position == -1).all() and found.grid is None


def test_what_cannot_be_says_so(classifier: Model, tiny_clip: Model) -> None:
    images = random_images(classifier)
    with pytest.raises(ValueError, match="classes 0 to 3, not 4"):
        relevance(classifier, images, "first", Logit(4))
    with pytest.raises(ValueError, match="choose Text or Direction"):
        relevance(tiny_clip, images, "layer3.0", Logit(0))
    with pytest.raises(MissingTextTowerError):
        relevance(classifier, images, "first", Text("a dog"))
    with pytest.raises(ValueError, match="vectors of 4 numbers"):
        relevance(classifier, images, "first", Direction(np.ones(5)))
    with pytest.raises(ValueError, match="gradient, integrated"):
        relevance(classifier, images, "first", Logit(0), method="lrp")
    with pytest.raises(UnknownSiteError):
        relevance(classifier, images, "third", Logit(0))
    with pytest.raises(UnknownSiteError, match="units 0 to 5"):
        rank_by_relevance(classifier, random_pictures(2), "first", Logit(0), units=[6], progress=False)


class Aside(nn.Module):
    """A layer whose output nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x).mean((2, 3))


def test_a_site_that_leads_nowhere_says_so() -> None:
    model = wrap_model(Aside(), image_size=8)
    with pytest.raises(UnknownSiteError, match="does not depend on unused"):
        relevance(model, random_images(model), "unused", Logit(0))


def test_nothing_is_left_of_it(classifier: Model) -> None:
    before = classifier.weights_hash
    relevance(classifier, random_images(classifier), "first", Logit(0))
    classifier.__dict__.pop("weights_hash")
    assert classifier.weights_hash == before
    assert all(parameter.grad is None for parameter in classifier.module.parameters())
    assert all(not module._forward_hooks for module in classifier.module.modules())


DOGS = ("beagle", "borzoi", "Airedale", "Afghan_hound", "basset", "Border_collie", "collie", "boxer")
OTHERS = ("accordion", "banana", "beaver", "bookcase", "cab", "castle", "daisy", "desk")


def photos(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    pictures = []
    for name in names:
        with Image.open(next((folder / name).glob("*.jpg"))) as opened:
            pictures.append(opened.convert("RGB"))
    return pictures


def test_the_units_most_relevant_to_a_text_are_excited_by_what_it_says(neurolab_data: Path) -> None:
    """Real photos, real weights: what does most for "a photo of a dog" fires for dogs; all units do not."""
    model = neurolab.load_model("pocket")
    folder = neurolab_data / "imagenet-samples"
    dogs, others = photos(folder, DOGS), photos(folder, OTHERS)
    found = rank_by_relevance(model, dogs, "layer4.1", Text("a photo of a dog"), k=len(dogs), progress=False)
    images = torch.stack([model.preprocess(picture) for picture in [*dogs, *others]])
    with torch.inference_mode(), capture(model, ["layer4.1"]) as acts:
        model.encode_image(images)
    values = acts["layer4.1"].amax((2, 3)).numpy()
    liking = (values[: len(dogs)].mean(0) - values[len(dogs) :].mean(0)) / values.std(0)
    relevant = np.argsort(-found.values.mean(1))[:20]
    assert liking[relevant].mean() > 0.7 > 0.3 > abs(liking.mean())
