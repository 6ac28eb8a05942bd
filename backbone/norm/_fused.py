"""Normalization by mixtures of rows in four kernels, for the layers that such a mixture describes: BN, TBBN, AdaB2N.

A row is one channel of one sample, with mean m_n and biased variance v_n over its pixels. Group s has the share M_sn of
sample n in its statistics, μ_s = Σ_n M_sn m_n and v_s = Σ_n M_sn (v_n + (m_n - μ_s)²), and the share U_ns in what the
sample becomes: y_n = Σ_s U_ns [γ k_s (x_n - μ_s) + β] with k_s = 1/√(v_s + eps). One batch is one group of equal
shares; several batches are as many groups, whose samples have no share in the others.

Backward: with the sums S_n = Σ g and T_n = Σ g (x_n - m_n) over the pixels of a row, a group gets G_s = Σ_n U_ns S_n
and K_s = Σ_n U_ns [T_n + (m_n - μ_s) S_n]. Hence dβ = Σ_s G_s, dγ = Σ_s k_s K_s, dv_s = -γ k_s³ K_s / 2 and
dμ_s = -γ k_s G_s - 2 dv_s μ_s (1 - Σ_n M_sn), each beside what comes to the statistics themselves, and
dx_n = Σ_s U_ns γ k_s g + Σ_s M_sn [dμ_s + 2 dv_s (x_n - μ_s)] / HW, dM_sn = Σ_c m_n dμ_s + (v_n + (m_n - μ_s)²) dv_s.

The first kernel of each pass goes over the maps for tables [N, C], and the programs of the second do the rest for their
channels from these. A sum with other maps and a ReLU may follow within them. The layers' own operations stay the
reference, and are what all other devices and types take. A gradient has no gradient of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .context import constant, send

MOST_SAMPLES = 128  # of which every program reads the tables
MOST_GROUPS = 16  # which a kernel has one after another: to make one of 48 takes a minute
_AMPERE = (8, 0)  # the first that knows bfloat16
# What a program takes at a time; the fastest of some on an H100 (benchmarks/results).
_LARGE_ROWS = {"PIXELS": 256, "CHANNELS": 16}
_SMALL_ROWS = {"PIXELS": 128, "CHANNELS": 32}  # of at most 256 pixels
_TILE = {"PIXELS": 128, "CHANNELS": 32}

_kernels: ModuleType | None = None
_types: tuple[torch.dtype, ...] = ()  # of the maps that they are for


def use_fused_kernels(use: bool, device: torch.device | str = "cuda") -> None:
    """Let the layers of this process use these kernels where they can, or their own operations alone.

    A kernel is made when maps of a new kind come, and kept on disk by Triton. Both ways give the same numbers up to
    rounding; each gives the same from run to run.

    Args:
        use: whether they do.
        device: on which a first kernel is tried out.

    Raises:
        ImportError: Triton is not installed.
        Exception: whatever Triton raises where it cannot make kernels, such as for want of a C compiler.
    """
    global _kernels, _types
    _kernels = None
    if not use:
        return
    from . import _kernels as kernels  # Triton is brought in by those alone who use it

    x = torch.zeros(1, 16, 4, 4, device=device)
    sizes = _Sizes.of(x, groups=1)
    with torch.cuda.device_of(x):
        kernels.row_moments[sizes.rows](x, sizes.table(x, 2), *sizes.counts, **sizes.row_tile)
    has_bfloat16 = torch.cuda.get_device_capability(x.device) >= _AMPERE
    _types = (torch.float32, torch.float16, *([torch.bfloat16] if has_bfloat16 else []))
    _kernels = kernels


def uses_fused_kernels() -> bool:
    """Whether layers use these kernels where they can."""
    return _kernels is not None


def takes(x: Tensor, added: Tensor | None) -> bool:
    """Whether the kernels are for such maps [N, C, H, W], and others that are added to them."""
    return (
        _kernels is not None
        and x.is_cuda
        and x.dtype in _types
        and (added is None or (added.dtype, added.shape, added.device) == (x.dtype, x.shape, x.device))
        and len(x) <= MOST_SAMPLES
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
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


def num_copies(num_channels: int) -> int:
    """In how many parts the gradient of shares comes, at least: programs of different channels do not wait to add."""
    return -(-num_channels // _TILE["CHANNELS"])


@constant
def batches(sizes: tuple[int, ...], device: torch.device) -> Mixing:
    """So many samples one after another, each of them a batch of its own."""
    members = torch.block_diag(*(torch.ones(1, size, device="cpu") for size in sizes))
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
        kernels = _kernels
        assert kernels is not None  # or `takes` says no
        sizes = _Sizes.of(x, outputs.shape[1])
        table, statistics = sizes.table(x, 2), x.new_empty((3, sizes.groups, sizes.channels), dtype=torch.float32)
        y = torch.empty_like(x)
        moved = (None, None, None) if running is None else (running.mean, running.variance, running.num_tracked)
        with torch.cuda.device_of(x):  # where Triton starts kernels
            kernels.row_moments[sizes.rows](x, table, *sizes.counts, **sizes.row_tile)
            kernels.normalize[sizes.tiles](
                x,
                None if added is None else sizes.arranged(added),
                y,
                table,
                shares,
                outputs,
                weight,
                bias,
                statistics,
                *moved,
                *sizes.counts,
                eps,
                0.0 if running is None else running.momentum,
                IS_AFFINE=weight is not None,
                TRACKS=running is not None,
                ADDS=added is not None,
                RECTIFIES=rectified,
                **sizes.tile,
            )
        ctx.save_for_backward(x, table, shares, outputs, weight, statistics, y if rectified else None)
        ctx.kernels, ctx.sizes, ctx.begun = kernels, sizes, begun
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
        kernels, sizes = ctx.kernels, ctx.sizes
        grad_x = torch.empty_like(x)
        adds = gradient is not None and ctx.needs_input_grad[1]
        gradient = torch.zeros_like(x) if gradient is None else sizes.arranged(gradient)
        sums = sizes.table(x, 2)
        received, gradient = gradient, gradient if y is None else torch.empty_like(x)
        grad_added, learns_shares = gradient if adds else None, ctx.needs_input_grad[2]
        grad_shares = torch.empty_like(shares, memory_format=torch.contiguous_format) if learns_shares else None
        grad_weight = None if weight is None else torch.empty_like(weight)
        grad_bias = None if weight is None else torch.empty_like(weight)
        with torch.cuda.device_of(x):
            kernels.row_sums[sizes.rows](
                received, x, y, gradient, table, sums, *sizes.counts, RECTIFIES=y is not None, **sizes.row_tile
            )
            kernels.pass_on[sizes.tiles](
                gradient,
                x,
                grad_x,
                table,
                sums,
                shares,
                outputs,
                weight,
                statistics,
                None if grad_statistics is None else grad_statistics.contiguous(),
                grad_weight,
                grad_bias,
                grad_shares,
                len(shares),
                *sizes.counts,
                IS_AFFINE=weight is not None,
                HAS_STATISTICS=grad_statistics is not None,
                LEARNS_SHARES=learns_shares,
                **sizes.tile,
            )
        return grad_x, grad_added, grad_shares, None, grad_weight, grad_bias, None, None, None, None


@dataclass(frozen=True)
class _Sizes:
    """Of maps [N, C, H, W] and groups, and how the kernels divide them among programs.

    Attributes:
        samples, channels, pixels: N, C and H · W.
        groups: G.
        channels_last: whether channels lie together.
    """

    samples: int
    channels: int
    pixels: int
    groups: int
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor, groups: int) -> "_Sizes":
        return cls(len(x), x.shape[1], x.shape[2:].numel(), groups, not x.is_contiguous())

    def table(self, x: Tensor, number: int) -> Tensor:
        """For so many numbers of every row."""
        return x.new_empty((number, self.samples, self.channels), dtype=torch.float32)

    def arranged(self, gradient: Tensor) -> Tensor:
        """The gradient as the maps lie."""
        return gradient.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.samples, self.channels, self.pixels

    @property
    def rows(self) -> tuple[int, int]:
        """Programs over rows."""
        return self.samples, -(-self.channels // self.row_tile["CHANNELS"])

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Programs over maps."""
        return -(-self.pixels // _TILE["PIXELS"]), num_copies(self.channels), self.samples

    @property
    def row_tile(self) -> dict[str, Any]:
        return (_LARGE_ROWS if self.pixels > 256 else _SMALL_ROWS) | {"CHANNELS_LAST": self.channels_last}

    @property
    def tile(self) -> dict[str, Any]:
        samples = max(16, 1 << (self.samples - 1).bit_length())
        return _TILE | {"GROUPS": self.groups, "SAMPLES": samples, "CHANNELS_LAST": self.channels_last}
