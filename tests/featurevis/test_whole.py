"""Objectives of no unit: against NumPy, and as what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from neurolab.errors import MissingTextTowerError, UnknownSiteError
from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Objective, Unit
from neurolab.featurevis.whole import Along, Caricature, DeepDream, Inversion, Near, Text
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model
from tests.featurevis.test_objectives import (
    LAST,
    MAP,
    TOKENS,
    VECTOR,
    assert_gradient_ascent,
    numpy_direction,
)

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "objective",
    [DeepDream(LAST), Text("a zebra"), Caricature(LAST, PHOTO), Inversion(LAST, PHOTO)],
    ids=["deepdream", "text", "caricature", "inversion"],
)
def test_gradient_ascent_in_a_resnet(tiny_clip: Model, objective: Objective) -> None:
    assert_gradient_ascent(tiny_clip, objective)


@pytest.mark.parametrize(
    "objective",
    [DeepDream("block2"), Text("a zebra"), Caricature("block2", PHOTO), Inversion("block1.mlp", PHOTO)],
    ids=["deepdream", "text", "caricature", "inversion"],
)
def test_gradient_ascent_in_a_transformer(tiny_vit: Model, objective: Objective) -> None:
    assert_gradient_ascent(tiny_vit, objective)


def test_a_text_is_the_direction_of_its_embedding_times_the_cosine(tiny_clip: Model) -> None:
    with torch.no_grad():
        vector = tiny_clip.encode_text(["a zebra"])[0].double().numpy()
    images = (
        torch.randn(3, len(vector), generator=torch.Generator().manual_seed(0))
        + torch.from_numpy(vector).float()
    )
    objective = Text("a zebra").bind(tiny_clip)
    expected = numpy_direction(images[:, None].double().numpy(), vector, 1)
    np.testing.assert_allclose(objective({objective.sites[0]: images}), expected, rtol=1e-4)


def test_deepdream_agrees_with_numpy() -> None:
    expected = np.square(MAP.numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(DeepDream("s")({"s": MAP}), expected, rtol=1e-5)
    np.testing.assert_allclose(
        DeepDream("s")({"s": TOKENS}), np.square(TOKENS.numpy()).mean((1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("acts", [MAP, TOKENS, VECTOR], ids=["map", "tokens", "vector"])
def test_inversion_agrees_with_numpy(acts: torch.Tensor) -> None:
    values = acts.numpy().astype(float)
    values = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
    target = torch.from_numpy(values[:1] * 2 + 1).float()
    wanted = target.numpy().astype(float)
    length = np.square(wanted).sum(-1).mean()
    distance = np.square(values - wanted).sum(-1).reshape(len(values), -1).mean(1)
    np.testing.assert_allclose(Near("s", target, "x")({"s": acts}), -distance / length, rtol=1e-4)


def test_an_inversion_is_best_where_nothing_differs(tiny_clip: Model) -> None:
    own = Inversion(LAST, PHOTO).bind(tiny_clip)
    with torch.no_grad(), capture(tiny_clip, own.sites) as acts:
        tiny_clip.encode_image(torch.stack([tiny_clip.preprocess(PHOTO), torch.rand(3, 64, 64)]))
        same, other = own(acts).tolist()
        (nothing,) = own({own.sites[0]: torch.zeros_like(acts[own.sites[0]][:1])}).tolist()
    assert same == pytest.approx(0, abs=1e-4) and other < -0.01
    assert nothing == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_a_caricature_is_a_direction_of_its_own_at_every_place(power: float) -> None:
    target = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(3))
    found = Along("s", target, power, "x")({"s": MAP})
    places = MAP.permute(0, 2, 3, 1).numpy().astype(float).reshape(3, 24, 8)
    vectors = target.numpy().astype(float).reshape(24, 8)
    one_by_one = [numpy_direction(places[:, p : p + 1], vectors[p], power) for p in range(24)]
    np.testing.assert_allclose(found, np.mean(one_by_one, axis=0), rtol=2e-4)


def test_a_text_is_the_direction_of_its_embedding(tiny_clip: Model) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    objective = Text("a zebra", power=0).bind(tiny_clip)
    with torch.no_grad():
        with capture(tiny_clip, objective.sites) as acts:
            embedded = tiny_clip.encode_image(images)
            found = objective(acts)
        if embedded is None:
            embedded = tiny_clip.encode_image(images)
        expected = embedded @ tiny_clip.encode_text("a zebra")[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert objective.name.endswith('"a zebra"')


def test_texts_need_a_text_tower() -> None:
    bare = wrap_model(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), image_size=16)
    with pytest.raises(MissingTextTowerError):
        Text("a zebra").bind(bare)


def test_they_are_computed_together_where_they_can_be(tiny_clip: Model) -> None:
    other = PHOTO.rotate(90)
    members = [
        objective.bind(tiny_clip)
        for objective in (
            Text("a zebra"),
            Unit(LAST, 3),
            Text("a cup"),
            Caricature(LAST, PHOTO),
            Caricature(LAST, other),
            Text("a zebra") - 2 * Unit(LAST, 5),
            Inversion(LAST, PHOTO),
        )
    ]
    batch = BatchObjective(members, tiny_clip.device)
    assert len(batch.groups) == 5
    images = torch.rand(len(members), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), capture(tiny_clip, batch.sites) as acts:
        tiny_clip.encode_image(images)
        together = batch(acts)
        rows = {site: acts[site] for site in batch.sites}
        for i, member in enumerate(members):
            alone = member({site: values[i : i + 1] for site, values in rows.items()})
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_nothing_is_computed_before_the_model_is_known() -> None:
    for objective in (Text("a zebra"), Caricature(LAST, PHOTO), Inversion(LAST, PHOTO)):
        with pytest.raises(TypeError, match="bound to a model"):
            objective({})
        with pytest.raises(TypeError, match="bound to a model"):
            objective.signature()


def test_a_target_of_another_site_is_refused(tiny_clip: Model) -> None:
    with pytest.raises(UnknownSiteError, match="does not fit"):
        Near(LAST, torch.zeros(1, 2, 2, 9), "x").bind(tiny_clip)
