import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import neurolab
from neurolab.atlas.pictures import Pictures
from neurolab.errors import UnknownSiteError
from neurolab.featurevis.objectives import Direction, Unit
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.render import render
from neurolab.featurevis.transforms import Jitter
from neurolab.models.zoo import Model, wrap_model

UNITS = ["layer4.0/3", "layer4.0/200", "layer3.0/7"]


def draw(model: Model, units: object = UNITS, **settings: object) -> list[Picture]:
    return render(model, units, **{"steps": 4, "progress": False} | settings)  # type: ignore[arg-type]


def hooks(model: Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


@pytest.fixture(scope="module")
def pictures(tiny_clip: Model) -> list[Picture]:
    return draw(tiny_clip)


def test_a_picture_for_each_unit(pictures: list[Picture]) -> None:
    assert [p.name for p in pictures] == [
        "visual.layer4.0.act3:in/3",
        "visual.layer4.0.act3:in/200",
        "visual.layer3.0.act3:in/7",
    ]
    for picture in pictures:
        assert picture.image.shape == (64, 64, 3)
        assert picture.image.dtype == np.uint8
        assert picture.history.shape == (4,)
        assert (picture.kind, picture.facet, picture.seed) == ("fourier", None, 0)
        assert {"steps", "lr", "size", "decay", "transforms", "views", "objective"} <= set(picture.settings)
    assert neurolab.render is render


def test_objectives_grow(tiny_clip: Model) -> None:
    for picture in draw(tiny_clip, steps=12, transforms="none"):
        assert picture.history[-1] > picture.history[0]


def test_same_seed_same_bytes(tiny_clip: Model, pictures: list[Picture]) -> None:
    torch.manual_seed(123)  # no global state counts
    for first, again in zip(pictures, draw(tiny_clip), strict=True):
        assert first.image.tobytes() == again.image.tobytes()
        assert first.history.tobytes() == again.history.tobytes()
    assert draw(tiny_clip, UNITS[:1], seed=1)[0].image.tobytes() != pictures[0].image.tobytes()


@pytest.mark.parametrize("views", [1, 2])
def test_a_picture_does_not_depend_on_its_batch(tiny_clip: Model, views: int) -> None:
    """Alone, or among others with other seeds and at another place: the same, up to rounding."""
    alone = draw(tiny_clip, [UNITS[1]], seed=[5], views=views)[0]
    for units, seeds, place in ((UNITS, [4, 5, 6], 1), ([UNITS[1], UNITS[2]], [5, 9], 0)):
        among = draw(tiny_clip, units, seed=seeds, views=views)[place]
        assert np.abs(alone.image.astype(int) - among.image.astype(int)).mean() < 0.05
        np.testing.assert_allclose(alone.history, among.history, rtol=1e-3, atol=1e-7)
    other = draw(tiny_clip, [UNITS[1]], seed=[6], views=views)[0]
    assert np.abs(alone.image.astype(int) - other.image.astype(int)).mean() > 1


def test_batches_do_not_show(tiny_clip: Model, pictures: list[Picture]) -> None:
    for one, other in zip(pictures, draw(tiny_clip, batch_size=2), strict=True):
        assert one.name == other.name
        assert one.settings == other.settings
        assert np.abs(one.image.astype(int) - other.image.astype(int)).mean() < 0.05


@pytest.mark.parametrize(("size", "shape"), [(96, (96, 96)), ((49, 80), (49, 80)), ((33, 31), (33, 31))])
def test_any_size(tiny_clip: Model, size: int | tuple[int, int], shape: tuple[int, int]) -> None:
    (picture,) = draw(tiny_clip, UNITS[:1], size=size, steps=2)
    assert picture.image.shape == (*shape, 3)


def test_other_parametrizations_and_transforms(tiny_clip: Model) -> None:
    (pixels,) = draw(tiny_clip, UNITS[:1], method="pixels", transforms=[Jitter(2)], border="reflect")
    assert pixels.kind == "pixels"
    assert pixels.settings["transforms"] == ["Jitter(pixels=2)"]
    rough = functools.partial(FourierImage, decay=0.5)
    (own,) = draw(tiny_clip, UNITS[:1], method=rough)
    assert own.settings["decay"] == 0.5


def test_a_network_may_compute_in_bfloat16(tiny_clip: Model, pictures: list[Picture]) -> None:
    """Equal starts, rounded otherwise; then Adam, which follows signs, parts their ways."""
    for exact, coarse in zip(pictures, draw(tiny_clip, precision="bfloat16"), strict=True):
        assert coarse.settings["precision"] == "bfloat16"
        assert "precision" not in exact.settings
        assert coarse.history.dtype == np.float32
        assert not np.array_equal(coarse.history, exact.history)
        assert coarse.history[0] == pytest.approx(exact.history[0], rel=0.1)
    with pytest.raises(ValueError, match="float32, bfloat16, not 'float16'"):
        draw(tiny_clip, precision="float16")


def test_transformers_and_objectives(tiny_vit: Model) -> None:
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    odd = Direction("block2", vector, name="odd")
    drawn = draw(tiny_vit, ["block2.mlp/9", Unit("block2", 3, "cls"), odd, Unit("block1.heads", 5)])
    assert drawn[2].name == "visual.transformer.resblocks.2:out/odd"
    assert drawn[1].settings["objective"] == "cls(visual.transformer.resblocks.2:out/3)"
    assert [p.image.shape for p in drawn] == [(32, 32, 3)] * 4
    assert draw(tiny_vit, "block2.mlp/9", steps=1)[0].name.endswith("gelu:in/9")


def test_nothing_is_left_behind(tiny_clip: Model) -> None:
    before, hash_before = hooks(tiny_clip), tiny_clip.weights_hash
    draw(tiny_clip, UNITS[:1], steps=2)
    with pytest.raises(ZeroDivisionError):
        draw(tiny_clip, [Broken(ZeroDivisionError, 2)])
    assert hooks(tiny_clip) == before
    assert all(p.grad is None and not p.requires_grad for p in tiny_clip.module.parameters())
    tiny_clip.__dict__.pop("weights_hash")
    assert tiny_clip.weights_hash == hash_before
    assert torch.is_grad_enabled()


class Broken(Unit):
    """A unit that raises at its n-th evaluation."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        super().__init__("layer4.0", 0)
        self.error, self.left = error, [at]

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        self.left[0] -= 1
        if not self.left[0]:
            raise self.error
        return super().__call__(acts)


def test_an_interruption_keeps_what_is_done(tiny_clip: Model) -> None:
    units = [UNITS[0], UNITS[1], Broken(KeyboardInterrupt, 3), UNITS[2]]
    with pytest.warns(UserWarning, match="interrupted: 3 of 4 pictures"):
        kept = draw(tiny_clip, units, steps=5, batch_size=1)
    assert [p.settings["steps"] for p in kept] == [5, 5, 2]
    assert len(kept[2].history) == 2
    assert hooks(tiny_clip) == 0
    with pytest.warns(UserWarning, match="interrupted: 0 of 1"):
        assert draw(tiny_clip, [Broken(KeyboardInterrupt, 1)]) == []


def test_an_interruption_between_batches_keeps_the_earlier_ones(tiny_clip: Model) -> None:
    made = []

    def slow(seeds: Sequence[int], size: tuple[int, int]) -> FourierImage:
        made.append(seeds)
        if len(made) == 2:
            raise KeyboardInterrupt
        return FourierImage(seeds, size)

    with pytest.warns(UserWarning, match="interrupted: 1 of 3"):
        assert len(draw(tiny_clip, batch_size=1, method=slow)) == 1


@pytest.fixture(scope="module")
def half_dead() -> Model:
    """Two units after a ReLU: 0 is silent whatever it is shown, 1 is not."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    with torch.no_grad():
        module[0].bias.copy_(torch.tensor([-1000.0, 1000.0]))  # type: ignore[operator]
    return wrap_model(module, image_size=16, name="half dead")


def test_a_dead_unit_is_named_and_blocks_nobody(half_dead: Model) -> None:
    with pytest.warns(UserWarning, match="no gradient after 4 steps.*1:out/0") as caught:
        dead, live = draw(half_dead, ["1:out/0", "1:out/1"])
    assert "1:out/1" not in str(caught[0].message)
    assert not dead.history.any()
    assert live.history[-1] > live.history[0]
    (alone,) = draw(half_dead, ["1:out/1"])
    assert np.abs(live.image.astype(int) - alone.image.astype(int)).max() <= 1


def test_before_the_relu_no_unit_is_dead(half_dead: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in draw(half_dead, ["1:in/0", "1:in/1"]):
            assert picture.history[-1] > picture.history[0]


def test_mistakes_are_refused(tiny_clip: Model) -> None:
    with pytest.raises(UnknownSiteError, match="no unit 256"):
        draw(tiny_clip, ["layer4.0/256"])
    with pytest.raises(ValueError, match="2 seeds for 3 units"):
        draw(tiny_clip, seed=[1, 2])
    with pytest.raises(ValueError, match="at least 1"):
        draw(tiny_clip, steps=0)
    assert draw(tiny_clip, []) == []


def test_pictures_can_be_saved_and_kept_in_an_atlas(pictures: list[Picture], tmp_path: Path) -> None:
    path = pictures[0].save(tmp_path / "new" / "folder" / "3.png")
    assert np.array_equal(np.asarray(Image.open(path)), pictures[0].image)
    assert [p.name for p in path.parent.iterdir()] == ["3.png"]
    assert pictures[0]._repr_png_()
    kept = Pictures(tmp_path)
    kept.add(pictures)
    row = kept.of(pictures[1].name)[0]
    assert row.settings["steps"] == 4
    np.testing.assert_allclose(row.history, pictures[1].history)


@pytest.fixture(autouse=True)
def no_grad_modes_leak() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()


def test_drawing_needs_no_help_from_the_caller(tiny_clip: Model, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        (picture,) = draw(tiny_clip, UNITS[:1], progress=True)
    assert picture.history[-1] != picture.history[0]
    assert capsys.readouterr().out == ""  # the bar is on stderr


def test_numpys_numbers_are_numbers(tiny_clip: Model) -> None:
    (one,) = draw(tiny_clip, UNITS[:1], seed=3, size=40)
    (other,) = draw(tiny_clip, UNITS[:1], seed=np.int64(3), size=np.int64(40))
    assert one.image.tobytes() == other.image.tobytes()
