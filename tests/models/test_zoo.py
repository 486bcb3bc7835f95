from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import neurolab
from neurolab.errors import MissingTextTowerError, UnknownModelError
from neurolab.models.zoo import Model, wrap_model
from tests.conftest import MEAN, STD, make_clip

NAME = "RN50-quickgelu"  # a real architecture of open_clip's; the tests give it small weights of their own


@pytest.fixture(autouse=True)
def small_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip builds the architecture NAME small, so that a checkpoint of it is written in no time."""
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {
        k: v.clone()
        for k, v in make_clip(3, layers=[1, 1, 1, 1], width=8, image_size=64).module.state_dict().items()
    }


def write(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "half", "state dict", "wrapped", "prefixed"])
def test_checkpoints_of_every_form_give_the_same_model(
    state: dict[str, Tensor], tmp_path: Path, form: str
) -> None:
    if form == "safetensors":
        path = write(tmp_path / "weights.safetensors", state)
    elif form == "half":
        half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        path = write(tmp_path / "weights.safetensors", half)
    elif form == "state dict":
        path = write(tmp_path / "weights.pt", state)
    elif form == "wrapped":
        path = tmp_path / "epoch_1.pt"
        torch.save({"epoch": 1, "state_dict": state}, path)
    else:
        path = write(tmp_path / "weights.pt", {f"module.{name}": value for name, value in state.items()})
    model = neurolab.load_model(NAME, weights=path)
    tolerance = 1e-3 if form == "half" else 0
    for name, value in model.module.state_dict().items():
        if value.is_floating_point() and name in state:
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, state[name], atol=tolerance, rtol=tolerance)
    assert model.has_text and model.encode_text(["a", "b"]).shape == (2, 32)
    assert model.settings["weights"] == str(path)


def test_openais_archives_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    class Published(nn.Module):
        """What OpenAI's files are: TorchScript with the weights and three numbers."""

        def forward(self, x: Tensor) -> Tensor:
            return x

    module = Published()
    for name, value in state.items():
        owner: nn.Module = module
        *path, last = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, Published())
            owner = getattr(owner, part)
        owner.register_buffer(last, value.half() if value.is_floating_point() else value)
    module.register_buffer("input_resolution", torch.tensor(64))
    module.register_buffer("context_length", torch.tensor(77))
    module.register_buffer("vocab_size", torch.tensor(49408))
    torch.jit.script(module).save(str(tmp_path / "RN50.pt"))
    model = neurolab.load_model(NAME, weights=tmp_path / "RN50.pt")
    expected = state["visual.conv1.weight"]
    torch.testing.assert_close(
        model.module.get_parameter("visual.conv1.weight"), expected, atol=1e-3, rtol=1e-3
    )


def test_an_image_tower_alone_loads_and_has_no_text(state: dict[str, Tensor], tmp_path: Path) -> None:
    visual = {name: value for name, value in state.items() if name.startswith("visual.")}
    model = neurolab.load_model(NAME, weights=write(tmp_path / "visual.safetensors", visual))
    assert not model.has_text and model.is_clip and model.embedding_dim == 32
    assert all(name.startswith(("visual.", "logit_")) for name in model.module.state_dict())
    with pytest.raises(MissingTextTowerError, match=NAME):
        model.encode_text("a zebra")


def test_what_would_have_to_be_unpickled_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "exploded"),)  # type: ignore[return-value]

    for name, save in (
        ("bomb.pt", torch.save),
        ("bomb.pkl", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        path = tmp_path / name
        save({"state_dict": Bomb()}, path)
        with pytest.raises(UnknownModelError, match=r"safetensors|holds no state dict"):
            neurolab.load_model(NAME, weights=path)
        assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_checkpoint_that_does_not_fit_names_what_does_not(
    state: dict[str, Tensor], tmp_path: Path, fault: str
) -> None:
    key = "visual.layer2.0.conv1.weight"
    if fault == "missing":
        del state[key]
    elif fault == "unexpected":
        state[key := "visual.layer9.0.conv1.weight"] = torch.zeros(1)
    else:
        state[key] = state[key][:4]
    with pytest.raises(UnknownModelError) as caught:
        neurolab.load_model(NAME, weights=write(tmp_path / "weights.safetensors", state))
    assert key in str(caught.value) and NAME in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnknownModelError, match=name):
        neurolab.load_model(NAME, weights=path)


def test_unknown_names_and_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="ViT-B-16"):
        neurolab.load_model("ViT-B-61", pretrained="random")
    with pytest.raises(UnknownModelError, match="openai"):
        neurolab.load_model("ViT-B-32")
    with pytest.raises(UnknownModelError, match="no checkpoint"):
        neurolab.load_model(NAME, weights=tmp_path / "none.safetensors")
    with pytest.raises(UnknownModelError, match="not both"):
        neurolab.load_model(NAME, weights=tmp_path / "none.safetensors", pretrained="openai")
    with pytest.raises(UnknownModelError, match="no weights called"):
        neurolab.load_model("ViT-B-32", pretrained="opnai")


def test_random_weights_are_seeded_and_their_hash_tells_weights_apart(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    first, again = (neurolab.load_model(NAME, pretrained="random") for _ in range(2))
    assert first.weights_hash == again.weights_hash and len(first.weights_hash) == 64
    state["visual.conv1.weight"][0, 0, 0, 0] += 1e-6
    assert (
        neurolab.load_model(NAME, weights=write(tmp_path / "w.safetensors", state)).weights_hash
        != first.weights_hash
    )


def test_normalization_is_inside(tiny_clip: Model) -> None:
    images = torch.rand(2, 3, *tiny_clip.image_size)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        expected = tiny_clip.module.encode_image((images - mean) / std)  # type: ignore[operator]
        ours = tiny_clip.encode_image(images)
        unit = tiny_clip.encode_image(images, normalize=True)
    torch.testing.assert_close(ours, expected)
    assert unit is not None
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(2))


def test_preprocessing_is_open_clips(tiny_clip: Model) -> None:
    image = Image.linear_gradient("L").resize((90, 130)).convert("RGB")
    theirs = open_clip.transform.image_transform(64, is_train=False, mean=MEAN, std=STD)(image)
    torch.testing.assert_close(tiny_clip.normalize(tiny_clip.preprocess(image)), theirs, atol=1e-5, rtol=0)


def test_classifiers_of_torchvision_and_timm_and_any_module() -> None:
    net = neurolab.load_model("torchvision:mobilenet_v2", pretrained="random")
    assert net.image_size == (224, 224) and not net.is_clip and not net.has_text
    with torch.inference_mode():
        scores = net.encode_image(torch.rand(1, 3, 64, 64))
    assert scores is not None and scores.shape == (1, 1000)
    vit = neurolab.load_model("timm:vit_tiny_patch16_224", pretrained="random")
    assert vit.mean == (0.5, 0.5, 0.5) and vit.image_size == (224, 224)
    own = wrap_model(nn.Conv2d(3, 4, 1), image_size=(20, 30), name="own")
    assert own.name == "own" and own.image_size == (20, 30) and not own.module.weight.requires_grad
    for name in ("torchvision:nothing", "timm:nothing"):
        with pytest.raises(UnknownModelError, match="nothing"):
            neurolab.load_model(name, pretrained="random")
    with pytest.raises(UnknownModelError, match="needs weights"):
        neurolab.load_model("torchvision:resnet18")


def test_the_hash_is_what_it_says_it_is() -> None:
    net = nn.Linear(2, 1).bfloat16()
    digest = hashlib.sha256()
    digest.update(b"bias\0torch.bfloat16\0(1,)\0" + net.bias.detach().view(torch.int16).numpy().tobytes())
    digest.update(
        b"weight\0torch.bfloat16\0(1, 2)\0" + net.weight.detach().view(torch.int16).numpy().tobytes()
    )
    assert wrap_model(net, image_size=8).weights_hash == digest.hexdigest()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_the_same_model() -> None:
    here = make_clip(layers=[1, 1, 1, 1], width=8, image_size=64)
    there = make_clip(layers=[1, 1, 1, 1], width=8, image_size=64).to("cuda")
    assert here.weights_hash == there.weights_hash and there.device.type == "cuda"
    assert [s.name for s in neurolab.list_sites(here)] == [s.name for s in neurolab.list_sites(there)]
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode(), neurolab.capture(here, ["layer3.0"]) as ours:
        here.encode_image(images)
    with torch.inference_mode(), neurolab.capture(there, ["layer3.0"]) as theirs:
        there.encode_image(images)
    torch.testing.assert_close(ours["layer3.0"], theirs["layer3.0"].cpu(), atol=1e-3, rtol=1e-3)


def test_random_weights_leave_the_seed_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    neurolab.load_model(NAME, pretrained="random")
    neurolab.load_model("torchvision:squeezenet1_1", pretrained="random")
    assert torch.equal(torch.rand(1), expected)


def test_an_image_tower_with_a_temperature_has_no_text_either(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    kept = {k: v for k, v in state.items() if k.startswith("visual.") or k == "logit_scale"}
    model = neurolab.load_model(NAME, weights=write(tmp_path / "visual.pt", kept))
    assert not model.has_text and not hasattr(model.module, "transformer")


def test_an_image_tower_gives_what_the_whole_model_gives(state: dict[str, Tensor], tmp_path: Path) -> None:
    whole = neurolab.load_model(NAME, weights=write(tmp_path / "whole.safetensors", state))
    visual = {name: value for name, value in state.items() if name.startswith("visual.")}
    tower = neurolab.load_model(NAME, weights=write(tmp_path / "visual.safetensors", visual))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(tower.encode_image(images), whole.encode_image(images))
    assert [s.name for s in neurolab.list_sites(tower)] == [s.name for s in neurolab.list_sites(whole)]


def test_text_towers_of_their_own_take_openais_names(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = neurolab.load_model(NAME, weights=write(tmp_path / "w.safetensors", state))
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, NAME, {**open_clip.get_model_config(NAME), "custom_text": True}
    )
    custom = neurolab.load_model(NAME, weights=tmp_path / "w.safetensors")
    assert isinstance(custom.module, open_clip.CustomTextCLIP)
    with torch.inference_mode():
        torch.testing.assert_close(custom.encode_text(["a zebra"]), plain.encode_text(["a zebra"]))


def test_a_clip_with_a_timm_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    vision = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    config = {**open_clip.get_model_config(NAME), "vision_cfg": vision}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)
    model = neurolab.load_model(NAME, pretrained="random")
    assert model.image_size == (64, 64) and model.embedding_dim == 32
    assert neurolab.find_site(model, "visual.trunk.layer4.0.act2:in").layout == "map"


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_classifiers_take_local_checkpoints(name: str, tmp_path: Path) -> None:
    first = neurolab.load_model(name, pretrained="random")
    path = write(tmp_path / "w.safetensors", {k: v.clone() + 1 for k, v in first.module.state_dict().items()})
    second = neurolab.load_model(name, weights=path)
    for key, value in second.module.state_dict().items():
        torch.testing.assert_close(value, first.module.state_dict()[key] + 1)
    with pytest.raises(UnknownModelError, match=r"unexpected .*Name the architecture"):
        neurolab.load_model("torchvision:resnet18", weights=path)


def test_images_that_are_no_images_are_refused(tiny_clip: Model) -> None:
    for wrong in (
        torch.zeros(1, 64, 64, 3),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(64, 64),
    ):
        with pytest.raises(ValueError, match=r"\[batch, 3, height, width\]"):
            tiny_clip.encode_image(wrong)


def test_what_is_no_vector_is_no_embedding() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x.mean((2, 3)), 1

    assert wrap_model(nn.Conv2d(3, 4, 1), image_size=8).embedding_dim is None
    assert wrap_model(Several(), image_size=8).embedding_dim == 3  # of several outputs the first

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> list[int]:
            return [1]

    with pytest.raises(TypeError, match="odd returns list without a tensor"):
        wrap_model(Nothing(), image_size=8, name="odd").encode_image(torch.zeros(1, 3, 8, 8))


def test_the_size_of_embeddings_is_known_inside_a_capture(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = neurolab.load_model(NAME, pretrained="random")
    with neurolab.capture(model, ["layer1.0"]):
        assert model.embedding_dim == 32
