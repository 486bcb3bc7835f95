"""Rewrite a traced step so that a CPU does the same in fewer and quicker operations.

Autograd keeps what anybody might still ask of it, and brings a convolution's weights into oneDNN's own order
in every pass. In a trace it is known what is asked, and that the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

aten, onednn = torch.ops.aten, torch.ops.mkldnn
RELUS = (aten.relu_.default, aten.relu.default)
CLAMPS = (aten.hardtanh_.default, aten.hardtanh.default)
IN_PLACE: dict[Any, Any] = {
    aten.hardtanh_backward.default: aten.hardtanh_backward.grad_input,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
PLAIN: tuple[str, list[float], str] = ("none", [], "")  # nothing behind the convolution

Fixed = dict[fx.Node, Tensor]  # what nodes stand for at every run


class Convolution(NamedTuple):
    """What belongs to a convolution of images with fixed weights [out, in / groups, height, width]."""

    weight: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def fuse(trace: fx.GraphModule, is_fixed: Callable[[Tensor], bool]) -> None:
    """Let a trace do its convolutions with fixed weights, and their gradients, by oneDNN's fused operations.

    A ReLU behind a convolution becomes a part of it. The gradient by the input becomes the transposed
    convolution that it is. Weights are cast and ordered here, once. trace: operations of aten on a CPU, from
    `torch.fx.experimental.proxy_tensor.make_fx`, of images channels last. is_fixed: whether a tensor that the
    trace reads is the same at every run. The results are the same up to rounding; but where a convolution
    gives NaN, oneDNN's ReLU gives 0.
    """
    graph, fixed = trace.graph, _fixed(trace, is_fixed)
    for node in graph.find_nodes(op="call_function", target=aten._to_copy.default):
        _cast_once(trace, node, fixed)
    if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        for node in graph.find_nodes(op="call_function", target=aten.convolution.default):
            _fuse_forward(trace, node, fixed)
        for node in graph.find_nodes(op="call_function", target=aten.convolution_backward.default):
            _fuse_backward(trace, node, fixed)
    graph.eliminate_dead_code()
    used = {node.target for node in graph.find_nodes(op="get_attr")}
    for name in [name for name, _ in trace.named_buffers() if name not in used]:
        delattr(trace, name)
    trace.recompile()


def _fixed(trace: fx.GraphModule, is_fixed: Callable[[Tensor], bool]) -> Fixed:
    """The tensors that the trace reads and does not write to, and nobody else does."""
    nodes = trace.graph.find_nodes(op="get_attr")
    read = {node: tensor for node in nodes if isinstance(tensor := getattr(trace, node.target), Tensor)}
    written = {id(tensor) for node, tensor in read.items() if _is_written(node)}
    return {node: tensor for node, tensor in read.items() if id(tensor) not in written and is_fixed(tensor)}


def _is_written(node: fx.Node) -> bool:
    """Whether something writes over what a node gave, or over a view of it."""
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            return True
        if getattr(user.target, "is_view", False) and _is_written(user):
            return True
    return False


def _cast_once(trace: fx.GraphModule, node: fx.Node, fixed: Fixed) -> None:
    """A fixed tensor in another precision is a fixed tensor."""
    if (tensor := fixed.get(node.args[0])) is not None and not _is_written(node):  # type: ignore[arg-type]
        cast = aten._to_copy(tensor, **node.kwargs)
        constant = _constant(trace, node, cast)
        fixed[constant] = cast
        _replace(node, constant)


def _fuse_forward(trace: fx.GraphModule, node: fx.Node, fixed: Fixed) -> None:
    image, weight, bias, *settings = node.args
    found = _convolution(fixed.get(weight), settings)  # type: ignore[arg-type]
    if found is None or not (_is_channels_last(image) and _is_channels_last(node)):
        return
    how = (found.padding, found.stride, found.dilation, found.groups)
    packed = onednn._reorder_convolution_weight(found.weight, *how, list(_value(image).shape))
    behind, replaced = _relu_behind(node)
    arguments = (image, _constant(trace, node, packed), bias, *how, *behind)
    with trace.graph.inserting_before(node):
        fused = trace.graph.call_function(onednn._convolution_pointwise.default, arguments)
    for old in (*replaced, node):
        _replace(old, fused)


def _relu_behind(node: fx.Node) -> tuple[tuple[str, list[float], str], list[fx.Node]]:
    """The ReLU behind a convolution, where nothing else needs the convolution's output: as oneDNN's "attr",
    "scalars" and "algorithm", and the nodes that it makes superfluous.

    The gradient of a clipped ReLU is told by where it clipped, which its own output shows as well as its
    input, if nobody writes over it; autograd keeps the input, or a copy of it, which goes.
    """
    relus = [user for user in node.users if user.target in RELUS + CLAMPS]
    if len(relus) != 1:
        return PLAIN, []
    (relu,) = relus
    bounds: list[Any] = list(relu.args[1:])
    copies = [user for user in node.users if user.target is aten.clone.default]
    readers = {user for source in (node, *copies) for user in source.users} - {relu, *copies}
    gradients = {user for user in readers if user.target is aten.hardtanh_backward.default}
    if readers - gradients or any(list(user.args[2:]) != bounds for user in gradients):
        return PLAIN, []
    if gradients and _is_written(relu):
        return PLAIN, []
    if relu.target in RELUS:
        return ("relu", [], ""), [relu, *copies]
    return (("hardtanh", bounds, ""), [relu, *copies]) if len(bounds) == 2 else (PLAIN, [])


def _fuse_backward(trace: fx.GraphModule, node: fx.Node, fixed: Fixed) -> None:
    """dL/dx = conv_transpose(dL/dy, w), where nothing but the gradient by the input is asked for."""
    gradient, image, weight, _, *settings, wanted = node.args
    found = _convolution(fixed.get(weight), settings)  # type: ignore[arg-type]
    given = next((user for user in node.users if user.args[1] == 0), None)
    if found is None or given is None or wanted != [True, False, False] or not _is_channels_last(given):
        return
    rest = _rest(_value(image).shape[2:], _value(gradient).shape[2:], found)
    how = (found.padding, rest, found.stride, found.dilation, found.groups)
    packed = onednn._reorder_convolution_transpose_weight(found.weight, *how, list(_value(gradient).shape))
    weight = _constant(trace, node, packed)
    with trace.graph.inserting_before(node):
        if not _is_channels_last(gradient):
            form: dict[str, Any] = {"memory_format": torch.channels_last}
            gradient = trace.graph.call_function(aten.clone.default, (gradient,), form)
        arguments = (gradient, weight, None, *how, *PLAIN)
        fused = trace.graph.call_function(onednn._convolution_transpose_pointwise.default, arguments)
    _replace(given, fused)
    _clip_in_place(trace, fused)


def _clip_in_place(trace: fx.GraphModule, gradient: fx.Node) -> None:
    """Where nobody but a ReLU needs a new gradient, that writes its own over it."""
    readers = list(gradient.users)
    if len(readers) == 1 and readers[0].target in IN_PLACE and readers[0].args[0] is gradient:
        (relu,) = readers
        with trace.graph.inserting_before(relu):
            over = trace.graph.call_function(IN_PLACE[relu.target], relu.args, {"grad_input": gradient})
        _replace(relu, over)


def _rest(image: Sequence[int], output: Sequence[int], found: Convolution) -> list[int]:
    """The rows and columns of an image that a convolution with a stride does not reach."""
    kernel = found.weight.shape[2:]
    sides = zip(image, output, kernel, found.stride, found.padding, found.dilation, strict=True)
    return [
        size - (count - 1) * stride + 2 * padding - dilation * (side - 1) - 1
        for size, count, side, stride, padding, dilation in sides
    ]


def _convolution(weight: Tensor | None, settings: Sequence[Any]) -> Convolution | None:
    """A convolution of images that oneDNN has; settings: stride, padding, dilation, transposed,
    output_padding and groups, as aten has them."""
    stride, padding, dilation, transposed, _, groups = settings
    if weight is None or transposed or weight.ndim != 4 or not _is_quick_in(weight.dtype):
        return None
    return Convolution(weight, list(stride), list(padding), list(dilation), groups)


def _is_quick_in(precision: torch.dtype) -> bool:
    """Whether oneDNN computes in it on this CPU."""
    lower: bool = onednn._is_mkldnn_bf16_supported()
    return precision == torch.float32 or (precision == torch.bfloat16 and lower)


def _constant(trace: fx.GraphModule, before: fx.Node, tensor: Tensor) -> fx.Node:
    """A node that stands for a new tensor."""
    name = f"_fused_{before.name}"
    trace.register_buffer(name, tensor, persistent=False)
    with trace.graph.inserting_before(before):
        return trace.graph.get_attr(name)


def _replace(old: fx.Node, new: fx.Node) -> None:
    new.meta = new.meta or dict(old.meta)
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def _value(node: Any) -> Tensor:
    """A tensor like the one that a node gave when it was traced, without its values."""
    value: Tensor = node.meta["val"]
    return value


def _is_channels_last(node: Any) -> bool:
    return _value(node).is_contiguous(memory_format=torch.channels_last)
