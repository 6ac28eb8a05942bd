"""Normalization by statistics of samples, batches or both in few kernels: IN, GN, LN, CN, SN, BRN.

A row is one channel of one sample, with mean m and biased variance v over its pixels. Such a layer is
y = A (x - m) + B, with tables A and B [N, C] that follow from those of m and v. With the statistics μ and V of a row,
and k = 1/√(V + eps), A = γ k and B = γ k (m - μ) + β.

Backward: every row has the sums S = Σ g and T = Σ g (x - m) over its pixels, and x gets α g + [δ + ε (x - m)] / HW.
From K = T + (m - μ) S come dβ = Σ S, dγ = Σ k K, dμ = -γ k S and dV = -γ k³ K / 2; α is A. Statistics that are means
over channels or samples, of m and of v + (m - mean)², hand on to each of these the mean of dμ and of dV: dm = mean(dμ)
+ 2 mean(dV) (m - mean) and dv = mean(dV), so that δ = dm and ε = 2 dv.

* IN, GN and LN: the mean is over a group of channels of a sample: one channel, some, all. LN has γ and β for every
  position, which follow (x - μ) k; S and T are of γ g, and dγ is Σ g (x - μ) k over the samples.
* CN: the maps x' = k (x - μ) of these groups are rows with mean k (m - μ) and variance k² v, and their mean is over a
  batch. They get α', δ' and ε' (of x - m, too), and with S' = α' S + δ' and T' = α' T + ε' v in place of S and T go on
  as in GN.
* SN: μ and V are mixtures of the instance's, the layer's and the batch's, of variances v HW / (HW - 1). What comes to
  each of the three is its share, and each share gets Σ dμ or Σ dV times that part.
* BRN: with the mean μ of a batch, its standard deviation s and σ = s + eps, A = γ r / σ and B = A (m - μ) + γ d + β,
  where r and d count as constants. By ∂s/∂x = (x - μ) / (n s), ε = -A Σ K / (σ s) / N and δ = -A Σ S / N + ε (m - μ),
  sums and number N being of the batch's samples; dγ = Σ (r / σ) K + d S.

On a GPU, there are kernels for the maps and the tables (`_triton/rows.py`), on the CPU for the maps (`_compiled.py`).
As with those of mixtures (`_fused.py`), a sum with other maps and a ReLU may follow within, the layers' own operations
stay the reference, and a gradient has no gradient of its own.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _fused


@dataclass(frozen=True)
class Grouped:
    """IN, GN and LN: `number` groups of channels of a sample. Parameters are γ and β.

    Attributes:
        per_position: whether these are [C, H, W], where there is one group; else they are [C].
    """

    number: int
    eps: float
    per_position: bool = False


@dataclass(frozen=True)
class Continual:
    """CN: such groups, and then batches of these sizes, one after another. Parameters are γ and β."""

    number: int
    eps: float
    sizes: tuple[int, ...]
    running: _fused.Running


@dataclass(frozen=True)
class Renormalized:
    """BRN. Parameters are γ and β.

    Attributes:
        eps: added to the standard deviation.
        sizes: of the batches.
        running_mean, running_std: [C].
        num_tracked: the batches counted, with these, [].
        momentum: weight of a batch in the running statistics.
        limits: 1/r_max, -d_max, r_max and d_max by the number of batches before, [numbers, 4]; the last ones stay.
    """

    eps: float
    sizes: tuple[int, ...]
    running_mean: Tensor
    running_std: Tensor
    num_tracked: Tensor
    momentum: float
    limits: Tensor


@dataclass(frozen=True)
class Switchable:
    """SN. Parameters are γ, β and the logits of the shares in the mean and in the variance, [3] each.

    Attributes:
        eps: added to the mixed variance.
        sizes: of the batches.
        running_mean, running_var: [C].
        momentum: weight of a batch in them.
    """

    eps: float
    sizes: tuple[int, ...]
    running_mean: Tensor
    running_var: Tensor
    momentum: float


Kind = Grouped | Continual | Renormalized | Switchable
Parameters = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Kept:
    """What a backward pass needs of its forward pass.

    Attributes:
        x: the maps that were normalised.
        y: what became of them, if they are rectified.
        table: means and variances of rows, [2, N, C].
        statistics: what the kind of the layer needs.
        parameters: of the layer, less β.
    """

    x: Tensor
    y: Tensor | None
    table: Tensor
    statistics: tuple[Tensor, ...]
    parameters: Parameters


class RowKernels(Protocol):
    """Kernels for one kind of device. Maps [N, C, H, W] are contiguous or channels-last, all of a call alike."""

    def takes(self, kind: Kind, x: Tensor) -> bool:
        """Whether they are for such a layer's maps, which lie so."""

    def normalize(
        self, kind: Kind, x: Tensor, added: Tensor | None, rectified: bool, parameters: Parameters
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The forward pass: the maps, and `table` and `statistics` of `Kept`."""

    def pass_back(
        self, kind: Kind, gradient: Tensor, kept: Kept, adds: bool
    ) -> tuple[Tensor, Tensor | None, Parameters]:
        """Gradients of x, of the added maps and of the parameters; None for what is not there.

        Args:
            kind: of the layer.
            gradient: of the maps, which lies as they do.
            kept: of the forward pass.
            adds: whether the gradient of maps that were added is wanted.
        """


def takes(kind: Kind, x: Tensor, added: Tensor | None, *parameters: Tensor | None) -> bool:
    """Whether there are kernels for a layer of these parameters and its maps, with others that are added to them."""
    kernels = _fused.row_kernels(x.device)
    return (
        kernels is not None
        and _fused.is_laid_out(x, added)
        and len({each is None for each in parameters[:2]}) <= 1
        and all(each is None or each.is_contiguous() for each in parameters)
        and kernels.takes(kind, x)
    )


def normalize(
    kind: Kind, x: Tensor, *parameters: Tensor | None, added: Tensor | None = None, rectified: bool = False
) -> Tensor:
    """relu(layer(x) + added) for maps [N, C, H, W], and the running statistics, if there are any, brought up to date.

    Args:
        kind: of the layer.
        x: the maps.
        parameters: of the layer.
        added: maps like x; None for nothing.
        rectified: whether a ReLU follows.
    """
    return _NormalizeRows.apply(kind, x, added, rectified, *parameters)


class _NormalizeRows(Function):
    @staticmethod
    def forward(
        ctx: Any, kind: Kind, x: Tensor, added: Tensor | None, rectified: bool, *parameters: Tensor | None
    ) -> Tensor:
        kernels = _fused.row_kernels(x.device)
        assert kernels is not None  # or `takes` had said so
        added = None if added is None else _fused.arranged(added, x)
        y, table, statistics = kernels.normalize(kind, x, added, rectified, parameters)
        weight, _, *logits = parameters
        ctx.save_for_backward(x, y if rectified else None, table, *statistics, weight, *logits)
        ctx.kind, ctx.kernels, ctx.num_statistics = kind, kernels, len(statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, table, *others = ctx.saved_tensors
        statistics, parameters = tuple(others[: ctx.num_statistics]), tuple(others[ctx.num_statistics :])
        kept, adds = Kept(x, y, table, statistics, parameters), ctx.needs_input_grad[2]
        grad_x, grad_added, grads = ctx.kernels.pass_back(ctx.kind, _fused.arranged(gradient, x), kept, adds)
        return None, grad_x, grad_added, None, *grads
