import pytest
import torch
from torch import Tensor, nn

from neurolab.models.attention_layout import contiguous_attention
from neurolab.models.capture import capture
from neurolab.models.zoo import Model


class Cross(nn.Module):
    """Attention of one sequence to another, called by position and by name."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).requires_grad_(False)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            self.seen.append((given["query"], given["key"], given["value"]))

        self.note = note

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = torch.tensor([[False, True, False, False, False]]).expand(len(y), -1)
        by_name: Tensor = self.attention(query=x, key=y, value=y, key_padding_mask=mask)[0]
        by_place: Tensor = self.attention(x, x, x, None, False)[0]
        return by_name + by_place


def test_the_function_and_its_gradient_are_the_same() -> None:
    net = Cross()
    x, y = torch.randn(3, 4, 8, requires_grad=True), torch.randn(3, 5, 8)
    plain = net(x, y)
    (slope,) = torch.autograd.grad(plain.square().sum(), x)
    with contiguous_attention(net) as count:
        net.attention.register_forward_pre_hook(net.note, with_kwargs=True)
        laid = net(x, y)
        (other,) = torch.autograd.grad(laid.square().sum(), x)
    assert count == 1
    torch.testing.assert_close(laid, plain)
    torch.testing.assert_close(other, slope)
    (query, key, value), (q, k, v) = net.seen
    assert q is k is v and key is value and query is not key
    assert all(t.transpose(0, 1).is_contiguous() and not t.is_contiguous() for t in (query, key, q))


def test_nothing_is_left_after_an_error_and_tokens_first_is_left_alone() -> None:
    net = Cross()
    with pytest.raises(RuntimeError, match="stop"), contiguous_attention(net):
        raise RuntimeError("stop")
    assert not net.attention._forward_pre_hooks
    with contiguous_attention(Cross(batch_first=False)) as count:
        assert count == 0


def test_what_a_capture_reads_and_edits_is_the_same(tiny_vit: Model) -> None:
    images = torch.rand(2, 3, *tiny_vit.image_size, generator=torch.Generator().manual_seed(0))
    attention = next(
        name for name, module in tiny_vit.module.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    sites = [f"{attention}:in", "block1.heads", "block2"]

    def read() -> list[Tensor]:
        with capture(tiny_vit, sites, edit={f"{attention}:in": lambda x: x * 1.5}) as acts:
            tiny_vit.encode_image(images)
            return [acts[site].detach() for site in sites]

    plain = read()
    with contiguous_attention(tiny_vit.module) as count:
        laid = read()
    assert count > 0
    for a, b in zip(plain, laid, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
