"""Passes that end early, and captures beside and inside each other."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

import neurolab
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model
from tests.models.watching import counting, hooks


def test_nothing_after_the_deepest_site_runs(tiny_clip: Model, images: Tensor) -> None:
    neurolab.list_sites(tiny_clip)  # tries the network out, once
    block = tiny_clip.module.get_submodule("visual.layer3.0")
    with (
        counting(block.get_submodule("conv3")) as before,
        counting(tiny_clip.module.get_submodule("visual.layer4.0.conv1")) as after,
        torch.inference_mode(),
        capture(tiny_clip, ["layer1.0", "layer3.0"]) as acts,
    ):
        assert tiny_clip.encode_image(images) is None
    assert (len(before), len(after)) == (1, 0)
    assert "layer1.0" in acts and acts["layer1.0"].shape[1] == 32


def test_a_stopped_pass_leaves_nothing_behind(tiny_clip: Model, images: Tensor) -> None:
    hooked = hooks(tiny_clip.module)
    with torch.inference_mode():
        plain = tiny_clip.encode_image(images)
        with capture(tiny_clip, ["layer2.0"]) as acts:
            tiny_clip.encode_image(images)
            first = acts["layer2.0"]
            tiny_clip.encode_image(images.flip(0))  # a second pass in the same block
        assert torch.equal(acts["layer2.0"], first.flip(0))
        again = tiny_clip.encode_image(images)
    assert plain is not None and again is not None and torch.equal(again, plain)
    assert hooks(tiny_clip.module) == hooked and not tiny_clip.module.training


def test_a_bare_module_call_ends_the_block_at_the_site(tiny_clip: Model, images: Tensor) -> None:
    reached = False
    with torch.inference_mode(), capture(tiny_clip, ["layer2.0"]) as acts:
        tiny_clip.module.encode_image(images)  # type: ignore[operator]
        reached = True
    assert not reached and acts["layer2.0"].shape[0] == 3


def test_nested_captures_do_not_disturb_each_other(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode(), capture(tiny_clip, ["layer1.0"], stop=False) as outer:
        with capture(tiny_clip, ["layer2.0"]) as inner:
            tiny_clip.encode_image(images)
        assert tiny_clip.encode_image(images) is not None
    assert len(outer) == len(inner) == 1


def test_a_capture_in_a_capture_is_not_cut_short(tiny_clip: Model, images: Tensor) -> None:
    """Alone, each would end the pass at its own site; the first before the other's is reached."""
    with torch.inference_mode(), capture(tiny_clip, ["layer1.0"]) as outer:
        with capture(tiny_clip, ["layer3.0"]) as inner:
            assert tiny_clip.encode_image(images) is None
        assert len(outer) == len(inner) == 1
        with capture(tiny_clip, ["layer2.0"], stop=False):
            assert tiny_clip.encode_image(images) is not None
        assert tiny_clip.encode_image(images) is None


def test_finding_sites_inside_a_capture_does_not_disturb_it() -> None:
    net = torchvision.models.squeezenet1_1()
    model = wrap_model(net, image_size=64)
    with torch.inference_mode(), capture(model, ["features.3"]) as acts:
        model.encode_image(torch.rand(2, 3, 64, 64))
        kept = acts["features.3"]
        larger = wrap_model(net, image_size=80)  # tried out with an image of its own, on the same modules
        assert neurolab.list_sites(larger) and larger.embedding_dim == 1000
        assert acts["features.3"] is kept


def test_a_network_that_catches_exceptions_does_not_catch_the_stop() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.first(x)
            except Exception:
                x = torch.zeros(1, 4, 4, 4)
            out: Tensor = self.rest(x)
            return out

    model = wrap_model(Careful(), image_size=4)
    with counting(model.module.get_submodule("rest")) as runs, capture(model, ["first"]) as acts:
        del runs[:]  # those of finding out about the network
        assert model.encode_image(torch.rand(1, 3, 4, 4)) is None
    assert not runs and acts["first"].shape == (1, 4, 4, 4)


def test_text_towers_are_read_and_not_cut_short(tiny_clip: Model) -> None:
    site = "transformer.resblocks.0:out"
    with torch.inference_mode(), capture(tiny_clip, [site]) as acts:
        embedded = tiny_clip.encode_text(["a zebra", "two words"])
    assert embedded.shape == (2, 32) and acts[site].shape == (2, 77, 32)
    with torch.inference_mode(), capture(tiny_clip, [f"{site[:-4]}.attn:heads", "layer4.0"]) as both:
        tiny_clip.encode_text("a zebra")
        assert tiny_clip.encode_image(torch.rand(1, 3, 64, 64)) is not None
    assert len(both) == 2


def test_a_bare_network_stops_once_it_is_known_how_often_its_modules_run() -> None:
    torch.manual_seed(0)
    net, x = torchvision.models.resnet18().eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), counting(net.get_submodule("layer4.0.conv1")) as runs:
        with capture(net, ["layer1.0.relu:in"]) as acts:
            net(x)  # the first pass: runs to its end, and the last of the two runs is kept
            assert len(runs) == 1
            first = acts["layer1.0.relu:in"]
            net(x)
        assert len(runs) == 1 and torch.equal(acts["layer1.0.relu:in"], first)
        with capture(net, ["layer1.0.relu#0:in"]) as earlier:
            net(x)
        assert len(runs) == 1 and not torch.equal(earlier["layer1.0.relu#0:in"], first)


def test_stop_can_be_asked_for_with_edits(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode():
        with capture(tiny_clip, ["layer2.0"], edit={"layer1.0": torch.zeros_like}, stop=True) as acts:
            assert tiny_clip.encode_image(images) is None
        with capture(tiny_clip, ["layer2.0"]) as plain:
            tiny_clip.encode_image(images)
    assert not torch.allclose(acts["layer2.0"], plain["layer2.0"])


def test_the_stop_works_on_every_path_of_use(tiny_vit: Model, patches: Tensor) -> None:
    """A pass that is ended in the middle leaves later passes, gradients and text as they were."""
    images = patches.clone().requires_grad_()
    with capture(tiny_vit, ["block0.mlp"]) as acts:
        assert tiny_vit.encode_image(images) is None
    (grad,) = torch.autograd.grad(acts["block0.mlp"][:, 0, 3].sum(), images)
    assert grad.abs().max() > 0 and torch.is_grad_enabled()
    out = tiny_vit.encode_image(images)
    assert out is not None and out.requires_grad and tiny_vit.encode_text("a").shape == (1, 32)
