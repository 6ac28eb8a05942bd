"""Convolutions whose weights are rounded all at once, and get their gradients on a branch of a captured step.

Nothing but the optimizer waits for the gradient of a weight, while all layers before wait for that of the maps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from backbone.branch import Branch

_NUMBERS_OF_A_VECTOR = 16  # in float32, of the widest that oneDNN uses


class Convolution(nn.Conv2d):
    """A convolution without a bias, whose weight may be there rounded already.

    Attributes:
        rounded: the weight in the type of the forwards under way; None: as it is.
        branch: where the gradient of that weight is computed, if not with that of the maps, and the weight that has
            it from there.
    """

    rounded: Tensor | None = None
    branch: "tuple[Branch, Tensor] | None" = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, …]."""
        if self.branch is not None:
            branch, weight = self.branch
            self.branch = None  # once in a forward: autograd would add gradients before they have come from the branch
            return _Convolve.apply(self, branch, x.to(weight.dtype), weight)
        if self._overruns_buffers(x):
            down, across = self.stride
            return functional.conv2d(x[:, :, ::down, ::across], self.current, self.bias, groups=self.groups)
        return self._conv_forward(x, self.current, self.bias)

    def _overruns_buffers(self, x: Tensor) -> bool:
        """Whether oneDNN would write beyond its buffers, and so into whatever is there (torch 2.14 on AVX-512).

        It does in backward passes of several threads through convolutions of 1 x 1 pixels with a stride, channels
        last, whose maps have fewer channels than a vector has numbers.
        """
        is_projection = self.kernel_size == (1, 1) and self.stride != (1, 1) and self.padding == (0, 0)
        if not is_projection or self.in_channels >= _NUMBERS_OF_A_VECTOR or x.device.type != "cpu":
            return False
        return torch.get_num_threads() > 1

    @property
    def current(self) -> Tensor:
        """The weight of the forwards under way."""
        return self.weight if self.rounded is None else self.rounded

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rounded": None, "branch": None}  # a copy is not in the forwards that are under way


@contextmanager
def rounded_weights(convolutions: Sequence[Convolution], dtype: torch.dtype) -> Iterator[None]:
    """Round the weights of all that learn at once, for the forwards within.

    Autocast rounds each by itself, and its gradient, as it does where nothing learns; the numbers are the same.
    """
    layers: list[Convolution] = []
    if torch.is_grad_enabled():  # and not again, by a context within
        layers = [each for each in convolutions if each.weight.requires_grad and each.rounded is None]
    if layers:
        for layer, weight in zip(layers, _Rounded.apply(dtype, *(each.weight for each in layers)), strict=True):
            layer.rounded = weight
    try:
        yield
    finally:
        for layer in layers:
            layer.rounded = None


class _Rounded(Function):
    """Tensors in another type, all of them in one operation, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return _copied(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = [each for each in gradients if each is not None]
        differentiable = torch.is_grad_enabled()  # as a gradient is asked for that has one itself
        copies = iter([each.to(ctx.dtype) for each in found] if differentiable else _copied(found, ctx.dtype))
        return None, *(None if each is None else next(copies) for each in gradients)


def _copied(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(each, dtype=dtype) for each in tensors)
    torch._foreach_copy_(copies, [*tensors])
    return copies


@contextmanager
def weights_on_branch(convolutions: Sequence[Convolution]) -> Iterator[None]:
    """Compute gradients of weights on a branch, for the one forward within, if it is captured."""
    learning = [each for each in convolutions if each.weight.requires_grad] if torch.is_grad_enabled() else []
    if not learning:
        yield
        return
    branch = Branch(learning[0].weight.device, "weights")
    layers = [each for each in learning if branch.is_taken and _is_plain(each)]
    if layers:
        for layer, weight in zip(layers, _Joined.apply(branch, *(each.current for each in layers)), strict=True):
            layer.branch = branch, weight
    try:
        yield
    finally:
        for layer in layers:
            layer.branch = None


def _is_plain(layer: Convolution) -> bool:
    """Whether nothing but a convolution is asked for, of a weight that is rounded if it is to be."""
    is_rounded_later = torch.is_autocast_enabled(layer.weight.device.type) and layer.rounded is None
    has_zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.bias is None and has_zeros and not is_rounded_later


class _Joined(Function):
    """Tensors as they are. Their gradients go on when all have come from the branch.

    It is made before the layers that use them, so that the backward pass comes to it last.
    """

    @staticmethod
    def forward(ctx: Any, branch: Branch, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.branch = branch
        return tensors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.branch.join()
        return None, *gradients


class _Convolve(Function):
    """A layer's convolution, with the gradient of its weight on a branch."""

    @staticmethod
    def forward(ctx: Any, layer: Convolution, branch: Branch, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.branch = branch
        ctx.places = layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups
        return torch.convolution(x, weight, None, *ctx.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        *_, of_maps, of_weight = ctx.needs_input_grad

        def pass_back(*wanted: bool) -> tuple[Tensor | None, ...]:
            return torch.ops.aten.convolution_backward(gradient, x, weight, None, *ctx.places, [*wanted, False])

        grad_x = grad_weight = None
        if of_weight:
            if not ctx.branch.is_open:  # joined at the end, too, as a pass to the maps alone does not come to `_Joined`
                torch.autograd.Variable._execution_engine.queue_callback(ctx.branch.join)
            ctx.branch.fork(gradient, x, weight)
        if of_maps:  # first: more waits for it
            grad_x, *_ = pass_back(True, False)
        if of_weight:
            with ctx.branch.on():
                _, grad_weight, _ = pass_back(False, True)
        return None, None, grad_x, grad_weight
