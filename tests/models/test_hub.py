"""Weights from the hub: the cache first, safetensors first, and a quick end where there is no network."""

from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import open_clip
import open_clip.pretrained
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownModelError
from neurolab.models import hub
from tests.conftest import make_clip

NAME, TAG = "RN50-quickgelu", "small"
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
VISION = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(autouse=True)
def small_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The architecture NAME is small, and has a hub tag with settings of its own."""
    config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)
    tag = {"hf_hub": "people/small/", "mean": MEAN, "std": STD, "resize_mode": "squash", "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {TAG: {**tag, "interpolation": "bilinear"}})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, which has no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put(cache: Path, filename: str, state: dict[str, Tensor]) -> Path:
    """Put a file of the repository into the cache, as the hub's client lays it out."""
    repository = cache / "models--people--small"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text("abc")
    path = repository / "snapshots" / "abc" / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def weights(seed: int) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in make_clip(seed, **VISION).module.state_dict().items()}


def test_cached_weights_load_with_the_settings_of_their_tag(cache: Path) -> None:
    state = weights(1)
    put(cache, "open_clip_model.safetensors", state)
    model = neurolab.load_model(NAME, pretrained=TAG)
    torch.testing.assert_close(model.module.state_dict(), state)
    assert (model.mean, model.std) == (MEAN, STD)
    assert (model.resize_mode, model.interpolation) == ("squash", "bilinear")
    assert model.settings == {"pretrained": TAG} and model.has_text


def test_safetensors_are_preferred(cache: Path) -> None:
    put(cache, "open_clip_pytorch_model.bin", weights(2))
    assert hub.fetch({"hf_hub": "people/small/"}, "weights").suffix == ".bin"
    put(cache, "open_clip_model.safetensors", weights(3))
    assert hub.fetch({"hf_hub": "people/small/"}, "weights").suffix == ".safetensors"


def test_the_cache_is_asked_before_the_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise AssertionError("the network was asked for what is cached")

    monkeypatch.setattr(hub, "hub_answers", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    put(cache, "open_clip_model.safetensors", weights(4))
    neurolab.load_model(NAME, pretrained=TAG)


def test_without_cache_and_network_the_three_ways_out_are_named_at_once(cache: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UnknownModelError) as caught:
        neurolab.load_model(NAME, pretrained=TAG)
    for way in ("HF_HOME", "weights=FILE", '"pocket"'):
        assert way in str(caught.value)
    assert NAME in str(caught.value) and TAG in str(caught.value)
    assert time.monotonic() - start < 5


def test_what_the_download_fails_with_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(repository: str, filename: str, **kwargs: object) -> str:
        asked.append(f"{repository}/{filename}")
        raise PermissionError("the repository is gated")

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UnknownModelError, match="gated"):
        neurolab.load_model(NAME, pretrained=TAG)
    assert asked[0] == "people/small/open_clip_model.safetensors" and asked[-1].endswith(".bin")


def test_an_unreachable_host_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    assert not hub.host_answers("https://hub.invalid", seconds=1)
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub.host_answers("https://hub.invalid", seconds=1)  # a proxy may know the way


def test_the_client_keeps_to_its_cache_where_the_hub_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "host_answers", lambda url, seconds: False)
    with pytest.raises(ZeroDivisionError), hub.cache_only_if_offline():
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True
        raise ZeroDivisionError
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("name", "variable"), [("torchvision:resnet18", "TORCH_HOME"), ("timm:resnet10t", "HF_HOME")]
)
def test_classifiers_without_network_say_so_too(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(cache))
    monkeypatch.setattr("neurolab.models.classifiers.host_answers", lambda url: False)
    with pytest.raises(UnknownModelError) as caught:
        neurolab.load_model(name, pretrained="DEFAULT")
    assert variable in str(caught.value) and "weights=FILE" in str(caught.value)
    with pytest.raises(UnknownModelError, match="no weights called 'nothing'"):
        neurolab.load_model(name, pretrained="nothing")


def test_cached_weights_of_torchvision_are_never_unpickled(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own loader would run what is in the file."""
    import torchvision

    given: dict[str, object] = {}

    def load(self: object, **kwargs: object) -> dict[str, Tensor]:
        given.update(kwargs)
        return dict(torchvision.models.resnet18().state_dict())

    monkeypatch.setattr("neurolab.models.classifiers.host_answers", lambda url: True)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", load)
    model = neurolab.load_model("torchvision:resnet18", pretrained="DEFAULT")
    assert given["weights_only"] is True and given["check_hash"] is True
    assert isinstance(model.module, nn.Module) and model.settings == {"pretrained": "DEFAULT"}


def test_another_activation_function_is_warned_of(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "open_clip_model.safetensors", weights(5))
    tag = dict(open_clip.pretrained._PRETRAINED[NAME][TAG], quick_gelu=False)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {TAG: tag})
    with pytest.warns(UserWarning, match="activation function.*use RN50$"):
        neurolab.load_model(NAME, pretrained=TAG)


def test_tokenizers_of_the_hub_are_fetched_when_text_comes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dict(
        open_clip.factory._MODEL_CONFIGS[NAME], text_cfg={**TEXT, "hf_tokenizer_name": "people/words"}
    )
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)
    model = neurolab.load_model(NAME, pretrained="random")
    with torch.inference_mode():
        assert model.encode_image(torch.rand(1, 3, 64, 64)) is not None
    with pytest.raises(UnknownModelError, match="tokenizer of RN50-quickgelu"):
        model.encode_text("a zebra")
