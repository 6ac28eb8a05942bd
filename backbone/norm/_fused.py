"""Normalization by mixtures of rows in few kernels, for the layers that such a mixture describes: BN, TBBN, AdaB2N.

A row is one channel of one sample, with mean m_n and biased variance v_n over its pixels. Group s has the share M_sn of
sample n in its statistics, μ_s = Σ_n M_sn m_n and v_s = Σ_n M_sn (v_n + (m_n - μ_s)²), and the share U_ns in what the
sample becomes: y_n = Σ_s U_ns [γ k_s (x_n - μ_s) + β] with k_s = 1/√(v_s + eps). One batch is one group of equal
shares; several batches are as many groups, whose samples have no share in the others.

Backward: with the sums S_n = Σ g and T_n = Σ g (x_n - m_n) over the pixels of a row, a group gets G_s = Σ_n U_ns S_n
and K_s = Σ_n U_ns [T_n + (m_n - μ_s) S_n]. Hence dβ = Σ_s G_s, dγ = Σ_s k_s K_s, dv_s = -γ k_s³ K_s / 2 and
dμ_s = -γ k_s G_s - 2 dv_s μ_s (1 - Σ_n M_sn), each beside what comes to the statistics themselves, and
dx_n = Σ_s U_ns γ k_s g + Σ_s M_sn [dμ_s + 2 dv_s (x_n - μ_s)] / HW, dM_sn = Σ_c m_n dμ_s + (v_n + (m_n - μ_s)²) dv_s.

Each pass goes over the maps twice: once for tables [N, C], and once with what follows from these for the channels. A
sum with other maps and a ReLU may follow within. The kernels are Triton's on a GPU (`_triton/mixtures.py`), and made by
a C++ compiler on the CPU (`_compiled.py`). The layers' own operations stay the reference, and are what all other
devices and types take. A gradient has no gradient of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .base import RunningNorm
from .context import constant, send

if TYPE_CHECKING:
    from ._fused_rows import RowKernels

CHANNELS_OF_COPY = 32  # whose part of a gradient of shares is a copy's


class Kernels(Protocol):
    """Kernels for one kind of device. Maps [N, C, H, W] are contiguous or channels-last, all of a call alike.

    Attributes:
        maker: the compiler that has made them, with its version.
        rows: those for layers of other kinds (`_fused_rows.py`); None: there are none.
    """

    maker: str

    @property
    def rows(self) -> "RowKernels | None": ...

    def takes(self, layer: RunningNorm, x: Tensor, num_groups: int) -> bool:
        """Whether they are for a layer's maps, which lie so, in so many groups."""

    def normalize(self, given: "Given") -> tuple[Tensor, Tensor, Tensor]:
        """The forward pass.

        Returns:
            The maps; a table with the means and variances of rows, [2, N, C]; and means, variances and inverse standard
            deviations of the groups, [3, G, C].
        """

    def pass_back(
        self, gradient: Tensor, grad_statistics: Tensor | None, kept: "Kept", adds: bool, learns_shares: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The backward pass.

        Args:
            gradient: of the maps that `normalize` gave, which lies as they do.
            grad_statistics: of the means and variances of the groups, [2, G, C].
            kept: of the forward pass.
            adds: whether the gradient of maps that were added is wanted.
            learns_shares: whether that of the shares is.

        Returns:
            Gradients of x, of the added maps, the shares, the weight and the bias; None for what is not there.
        """


_kernels: dict[str, Kernels] = {}  # by the kind of device


def use_fused_kernels(use: bool, device: torch.device | str = "cuda", dtype: torch.dtype = torch.float32) -> None:
    """Let the layers of this process use these kernels where they can, or their own operations alone.

    Kernels are made when maps of a new kind come, and are kept on disk. Both ways give the same numbers up to rounding;
    each gives the same from run to run.

    Args:
        use: whether they do; if not, on no device.
        device: for which kind of device, a GPU or the CPU; a first kernel is made for it.
        dtype: of the maps that are expected, for which that is on the CPU.

    Raises:
        ImportError: Triton, which makes those for a GPU, is not installed.
        OSError: there is no compiler to make those for the CPU, it fails, or its results cannot be kept.
        Exception: whatever Triton raises where it cannot make kernels, such as for want of a C compiler.
    """
    device = torch.device(device)
    if not use:
        _kernels.clear()
        return
    _kernels.pop(device.type, None)
    if device.type == "cpu":
        from ._compiled import CompiledKernels

        _kernels[device.type] = CompiledKernels.made(dtype)
    else:
        from ._triton import TritonKernels  # Triton is brought in by those alone who use it

        _kernels[device.type] = TritonKernels.made(device)


def uses_fused_kernels(device: torch.device | str = "cuda") -> bool:
    """Whether layers use these kernels where they can, on this kind of device."""
    return torch.device(device).type in _kernels


def maker_of_fused_kernels(device: torch.device | str = "cuda") -> str | None:
    """The compiler of the kernels that layers use on this kind of device, with its version; None: they use none."""
    kernels = _kernels.get(torch.device(device).type)
    return None if kernels is None else kernels.maker


def row_kernels(device: torch.device) -> "RowKernels | None":
    """Those for layers that are no mixtures of samples, if layers on such a device use kernels."""
    kernels = _kernels.get(device.type)
    return None if kernels is None else kernels.rows


def is_laid_out(x: Tensor, added: Tensor | None) -> bool:
    """Whether maps, and others that are to be added to them, lie as kernels read them."""
    return (
        x.numel() > 0
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and (added is None or (added.dtype, added.shape, added.device) == (x.dtype, x.shape, x.device))
    )


def takes(layer: RunningNorm, x: Tensor, added: Tensor | None, sizes: tuple[int, ...], num_groups: int = 1) -> bool:
    """Whether the kernels are for such maps.

    Args:
        layer: which has them to normalise.
        x: the maps, [N, C, H, W].
        added: others that are added to them.
        sizes: of the batches in them.
        num_groups: in all.
    """
    kernels = _kernels.get(x.device.type)
    return (
        kernels is not None
        and is_laid_out(x, added)
        and layer.has_variance(x, min(sizes))
        and kernels.takes(layer, x, num_groups)
    )


@dataclass(frozen=True)
class Mixing:
    """Which samples make up the groups, and what becomes of them.

    Attributes:
        shares: M [G, N], of the samples in the statistics of the groups; where they are learned, [copies, G, N], of
            which all are equal, and whose gradients make up that of the shares (`num_copies`).
        outputs: U [N, G], of the groups in the samples.
    """

    shares: Tensor
    outputs: Tensor


def for_gradients(weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What the gradients of scale and shift are written to, if there are both."""
    return (None, None) if weight is None else (torch.empty_like(weight), torch.empty_like(weight))


def num_copies(num_channels: int) -> int:
    """In how many parts the gradient of shares comes, at least: programs of different channels do not wait to add."""
    return -(-num_channels // CHANNELS_OF_COPY)


@constant
def batches(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Mixing:
    """So many samples one after another, each of them a batch of its own."""
    members = torch.block_diag(*(torch.ones(1, size, dtype=dtype, device="cpu") for size in sizes))
    shares = members / members.sum(1, keepdim=True)
    return Mixing(send(shares, device), send(members.t().contiguous(), device))


@dataclass(frozen=True)
class Running:
    """Running statistics that move with the groups, one after another, and are unbiased.

    Attributes:
        mean, variance: [C].
        num_tracked: counts the groups, [].
        momentum: weight of a group.
    """

    mean: Tensor
    variance: Tensor
    num_tracked: Tensor
    momentum: float


@dataclass(frozen=True)
class Given:
    """What a forward pass is given, as `normalize` is; added maps lie as x does."""

    x: Tensor
    added: Tensor | None
    mixing: Mixing
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    rectified: bool
    running: Running | None


@dataclass(frozen=True)
class Kept:
    """What a backward pass needs of its forward pass: of what was given, and of what came of it.

    Attributes:
        y: the maps, if they are rectified.
        table, statistics: as `Kernels.normalize` gives them.
    """

    x: Tensor
    y: Tensor | None
    table: Tensor
    mixing: Mixing
    weight: Tensor | None
    statistics: Tensor


def normalize(
    x: Tensor,
    mixing: Mixing,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    added: Tensor | None = None,
    rectified: bool = False,
    running: Running | None = None,
    begun: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise maps [N, C, H, W], add others, and rectify the sum.

    Args:
        x: the maps.
        mixing: its shares may have a gradient, if there are enough copies.
        weight, bias: γ and β, [C], both or none.
        eps: added to the variances.
        added: maps like x; None for nothing.
        rectified: whether a ReLU follows.
        running: to be brought up to date.
        begun: called when a backward pass begins.

    Returns:
        The maps; mean and variance of the groups, [2, G, C]; and k [G, C], which has no gradient.
    """
    return _NormalizeMixtures.apply(
        x, added, mixing.shares, mixing.outputs, weight, bias, eps, rectified, running, begun
    )


class _NormalizeMixtures(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        shares: Tensor,
        outputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        rectified: bool,
        running: Running | None,
        begun: Callable[[], None] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels, added = _kernels[x.device.type], None if added is None else arranged(added, x)
        given = Given(x, added, Mixing(shares, outputs), weight, bias, eps, rectified, running)
        y, table, statistics = kernels.normalize(given)
        ctx.save_for_backward(x, table, shares, outputs, weight, statistics, y if rectified else None)
        ctx.kernels, ctx.begun = kernels, begun
        ctx.set_materialize_grads(False)
        moments, inverse_stds = statistics[:2], statistics[2]
        ctx.mark_non_differentiable(inverse_stds)
        return y, moments, inverse_stds

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, grad_statistics: Tensor | None, _inverse_stds: None
    ) -> tuple[Tensor | None, ...]:
        if ctx.begun is not None:
            ctx.begun()
        x, table, shares, outputs, weight, statistics, y = ctx.saved_tensors
        _, adds, learns_shares, *_ = ctx.needs_input_grad
        grad_x, grad_added, grad_shares, grad_weight, grad_bias = ctx.kernels.pass_back(
            torch.zeros_like(x) if gradient is None else arranged(gradient, x),
            None if grad_statistics is None else grad_statistics.contiguous(),
            Kept(x, y, table, Mixing(shares, outputs), weight, statistics),
            adds and gradient is not None,
            learns_shares,
        )
        return grad_x, grad_added, grad_shares, None, grad_weight, grad_bias, None, None, None, None


def arranged(maps: Tensor, x: Tensor) -> Tensor:
    """Maps in the memory format of x."""
    memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return maps.resolve_neg().contiguous(memory_format=memory_format)
