import numpy as np
import pytest
import torch

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.heads import Head
from neurolab.featurevis.render import render
from neurolab.models.attention import head_contributions
from neurolab.models.capture import capture
from neurolab.models.zoo import Model


def test_the_length_of_each_items_head_agrees_with_numpy(tiny_vit: Model) -> None:
    members = [Head("block1.heads", head).bind(tiny_vit) for head in (1, 0, 1)]
    batch = BatchObjective(members)
    assert len(batch.groups) == 1
    activation = torch.randn(3, 17, 64, generator=torch.Generator().manual_seed(0))
    (site,) = batch.sites
    heads = activation.numpy().reshape(3, 17, 2, 32)
    expected = [np.linalg.norm(heads[i, 1:, head], axis=-1).mean() for i, head in enumerate((1, 0, 1))]
    np.testing.assert_allclose(batch({site: activation}), expected, rtol=1e-5)


@pytest.mark.parametrize("where", ["mean", "cls"])
def test_a_head_is_made_to_speak(tiny_vit: Model, where: str) -> None:
    objective = Head("block2.heads", 1, where)
    (picture,) = render(tiny_vit, objective, steps=16, transforms="none", progress=False)
    assert picture.history[-1] > 1.2 * picture.history[0]
    assert picture.name == "visual.transformer.resblocks.2.attn:heads/head 1"


def test_a_silent_head_adds_nothing_to_the_layer(tiny_vit: Model) -> None:
    """Length 0 and no contribution are the same: what is measured is what the layer gets from the head."""
    layer = tiny_vit.module.get_submodule("visual.transformer.resblocks.1.attn")
    objective = Head("block1.heads", 0).bind(tiny_vit)
    with capture(tiny_vit, ["block1.heads"]) as acts, torch.no_grad():
        tiny_vit.encode_image(torch.rand(2, 3, 32, 32))
    said = acts["block1.heads"].clone()
    said[..., :32] = 0
    assert not head_contributions(layer, said)[:, :, 0].any()
    assert objective({objective.sites[0]: said}).max() < 1e-5
    assert objective({objective.sites[0]: acts["block1.heads"]}).min() > 1e-3


def test_the_attention_pool_has_heads_too(tiny_clip: Model) -> None:
    objective = Head("attnpool.heads", 0).bind(tiny_clip)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    with capture(tiny_clip, objective.sites) as acts:
        tiny_clip.encode_image(images)
        values = objective(acts)
        values.sum().backward()
    heads = acts[objective.sites[0]].detach()
    dim = heads.shape[-1] // objective.heads  # type: ignore[attr-defined]
    expected = heads[:, 0, :dim].norm(dim=-1)
    torch.testing.assert_close(values.detach(), expected)
    assert images.grad is not None and images.grad.flatten(1).any(1).all()


def test_what_is_no_head_is_refused(tiny_vit: Model) -> None:
    with pytest.raises(UnknownSiteError, match="no site of heads"):
        Head("block1.mlp", 0).bind(tiny_vit)
    with pytest.raises(UnknownSiteError, match="heads 0 to 1, not 2"):
        Head("block1.heads", 2).bind(tiny_vit)
