"""Layers that normalise rows by several kinds of statistics, on a GPU (`_fused_rows.py` has the mathematics)."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from .._fused import batches, for_gradients
from .._fused_rows import Continual, Grouped, Kept, Kind, Parameters, Renormalized, Switchable
from .maps import Sizes, at_positions, end_layer, row_moments, row_sums, tile
from .tables import (
    continual_gradients,
    continual_tables,
    group_gradients,
    group_tables,
    renormalized_gradients,
    renormalized_tables,
    switchable_gradients,
    switchable_means,
    switchable_tables,
)

_MOST_SAMPLES = 128  # of which every program reads the tables
_MOST_BATCHES = 16
_MOST_CHANNELS = 4096  # of a sample, which one program reads
_COLUMNS = 1024  # numbers of a table that a program for all samples takes at a time
_MOST_COLUMNS = 32
_GROUP_TILE = 512
_MAP_TILE = 4096


# -- passes over maps --------------------------------------------------------------------------------------------------


@triton.jit
def scale_rows(
    x,
    added,
    y,
    weight,
    bias,
    table,
    coefficients,
    num_samples,
    num_channels,
    num_pixels,
    PER_POSITION: tl.constexpr,
    ADDS: tl.constexpr,
    RECTIFIES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A (x - m) + B of every row, with what is added and a ReLU. Grid: (pixels, channels, N).

    Scale and shift, [C, HW], follow where every position has its own.
    """
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_there = channel < num_channels
    row = sample * num_channels + channel
    mean = tl.load(table + row, is_there, other=0.0)
    slope = tl.load(coefficients + row, is_there, other=0.0)
    offset = tl.load(coefficients + num_samples * num_channels + row, is_there, other=0.0)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    places, there = tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST)
    places += sample * num_channels * num_pixels
    values = tl.load(x + places, there, other=0.0).to(tl.float32) - mean[None, :]
    values = values * slope[None, :] + offset[None, :]
    if PER_POSITION:
        values *= at_positions(weight, pixel, channel, num_pixels, num_channels)
        values += at_positions(bias, pixel, channel, num_pixels, num_channels)
    end_layer(values, added, y, places, there, ADDS, RECTIFIES)


@triton.jit
def pass_rows_on(
    gradient,
    x,
    grad_x,
    weight,
    table,
    coefficients,
    num_samples,
    num_channels,
    num_pixels,
    PER_POSITION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """α g + [δ + ε (x - m)] / HW of every row. Grid as `scale_rows`."""
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_there = channel < num_channels
    row = sample * num_channels + channel
    mean = tl.load(table + row, is_there, other=0.0)
    slope = tl.load(coefficients + row, is_there, other=0.0)
    offset = tl.load(coefficients + num_samples * num_channels + row, is_there, other=0.0)
    x_slope = tl.load(coefficients + 2 * num_samples * num_channels + row, is_there, other=0.0)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    places, there = tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST)
    places += sample * num_channels * num_pixels
    values = tl.load(x + places, there, other=0.0).to(tl.float32) - mean[None, :]
    values = (values * x_slope[None, :] + offset[None, :]) / num_pixels
    received = tl.load(gradient + places, there, other=0.0).to(tl.float32)
    if PER_POSITION:
        received *= at_positions(weight, pixel, channel, num_pixels, num_channels)
    values += received * slope[None, :]
    tl.store(grad_x + places, values.to(grad_x.dtype.element_ty), there)


@triton.jit
def position_gradients(
    gradient,
    x,
    table,
    statistics,
    grad_weight,
    grad_bias,
    num_samples,
    num_channels,
    num_pixels,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of scale and shift of every position, [C, HW], of maps with one group. Grid: (pixels, channels)."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    places, there = tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST)
    of_weight = tl.zeros((PIXELS, CHANNELS), tl.float32)
    of_bias = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for sample in range(num_samples):
        first = tl.cast(sample, tl.int64) * num_channels * num_pixels
        mean = tl.load(statistics + sample)
        inverse_std = tl.load(statistics + 2 * num_samples + sample)
        received = tl.load(gradient + first + places, there, other=0.0).to(tl.float32)
        of_bias += received
        of_weight += received * inverse_std * (tl.load(x + first + places, there, other=0.0).to(tl.float32) - mean)
    places, there = tile(pixel, channel, num_pixels, num_channels, False)
    tl.store(grad_weight + places, of_weight, there)
    tl.store(grad_bias + places, of_bias, there)


# -- layers ------------------------------------------------------------------------------------------------------------


class TritonRows:
    """The kernels of a GPU.

    Args:
        types: of the maps that they are for.
    """

    def __init__(self, types: tuple[torch.dtype, ...]) -> None:
        self._types = types

    def takes(self, kind: Kind, x: Tensor) -> bool:
        num_batches = 1 if isinstance(kind, Grouped) else len(kind.sizes)
        return (
            x.dtype in self._types
            and len(x) <= _MOST_SAMPLES
            and x.shape[1] <= _MOST_CHANNELS
            and num_batches <= _MOST_BATCHES
        )

    def normalize(
        self, kind: Kind, x: Tensor, added: Tensor | None, rectified: bool, parameters: Parameters
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        sizes = Sizes.of(x)
        table, y = sizes.table(x, 2), torch.empty_like(x)
        grid, tiling = _tiles(sizes)
        with torch.cuda.device_of(x):  # where Triton starts kernels
            row_moments[sizes.rows](x, table, *sizes.counts, **sizes.row_tile)
            coefficients, statistics = _TABLES[type(kind)](kind, sizes, table, *parameters)
            per_position = parameters if _has_positions(kind) else (None, None)
            scale_rows[grid](
                x,
                added,
                y,
                *per_position,
                table,
                coefficients,
                *sizes.counts,
                PER_POSITION=per_position[0] is not None,
                ADDS=added is not None,
                RECTIFIES=rectified,
                **tiling,
            )
        return y, table, statistics

    def pass_back(
        self, kind: Kind, gradient: Tensor, kept: Kept, adds: bool
    ) -> tuple[Tensor, Tensor | None, Parameters]:
        x, y, table = kept.x, kept.y, kept.table
        sizes = Sizes.of(x)
        sums, grad_x = sizes.table(x, 2), torch.empty_like(x)
        received, gradient = gradient, gradient if y is None else torch.empty_like(x)
        grid, tiling = _tiles(sizes)
        weight = kept.parameters[0] if _has_positions(kind) else None
        per_position = {"PER_POSITION": weight is not None}
        with torch.cuda.device_of(x):
            row_sums[sizes.rows](
                received,
                x,
                y,
                gradient,
                weight,
                table,
                sums,
                *sizes.counts,
                RECTIFIES=y is not None,
                **per_position,
                **sizes.row_tile,
            )
            coefficients, grads = _GRADIENTS[type(kind)](kind, sizes, table, sums, kept.statistics, *kept.parameters)
            pass_rows_on[grid](
                gradient, x, grad_x, weight, table, coefficients, *sizes.counts, **per_position, **tiling
            )
            if weight is not None:
                grads = for_gradients(weight)
                position_gradients[grid[:2]](gradient, x, table, *kept.statistics, *grads, *sizes.counts, **tiling)
        return grad_x, gradient if adds else None, grads


def _has_positions(kind: Kind) -> bool:
    """Whether every position has a scale and a shift of its own."""
    return isinstance(kind, Grouped) and kind.per_position


def _tiles(sizes: Sizes) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Programs that go over maps once, and what each takes."""
    pixels = min(128, max(16, triton.next_power_of_2(sizes.pixels)))
    channels = min(_MAP_TILE // pixels, max(16, triton.next_power_of_2(sizes.channels)))
    grid = -(-sizes.pixels // pixels), -(-sizes.channels // channels), sizes.samples
    return grid, {"PIXELS": pixels, "CHANNELS": channels, "CHANNELS_LAST": sizes.channels_last}


def _group_tiles(sizes: Sizes, number: int) -> tuple[tuple[int, int], tuple[int, int], dict[str, int]]:
    """Programs for groups of channels; how many there are, and their channels; and what a program takes."""
    width = sizes.channels // number
    padded = triton.next_power_of_2(width)
    groups = min(max(1, _GROUP_TILE // padded), triton.next_power_of_2(number))
    return (sizes.samples, -(-number // groups)), (number, width), {"GROUPS": groups, "WIDTH": padded}


def _column_tiles(sizes: Sizes, number: int) -> tuple[tuple[int], dict[str, int]]:
    """Programs for channels of all samples, in so many batches, and what each takes."""
    samples = sizes.padded_samples
    channels = min(_MOST_COLUMNS, _COLUMNS // samples)
    return (-(-sizes.channels // channels),), {"BATCHES": number, "SAMPLES": samples, "CHANNELS": channels}


def _group_statistics(
    sizes: Sizes, table: Tensor, number: int, eps: float, unbiased: float = 1.0, ends: Parameters | None = None
) -> tuple[Tensor, Tensor | None]:
    """Statistics of groups of channels, [3, N, groups], and A and B where these are scale and shift."""
    statistics = table.new_empty(3, sizes.samples, number)
    coefficients = None if ends is None else torch.empty_like(table)
    weight, bias = ends or (None, None)
    grid, counts, tiling = _group_tiles(sizes, number)
    group_tables[grid](
        table,
        weight,
        bias,
        statistics,
        coefficients,
        sizes.samples,
        sizes.channels,
        *counts,
        eps,
        unbiased,
        IS_AFFINE=weight is not None,
        ENDS=ends is not None,
        **tiling,
    )
    return statistics, coefficients


def _grouped(kind: Grouped, sizes: Sizes, table: Tensor, *ends: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    of_channels = (None, None) if kind.per_position else ends
    statistics, coefficients = _group_statistics(sizes, table, kind.number, kind.eps, ends=of_channels)
    assert coefficients is not None
    return coefficients, (statistics,)


def _pass_groups_back(
    sizes: Sizes,
    number: int,
    table: Tensor,
    sums: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    following: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """α, δ and ε, by those of a step that follows, if one does; and what rows add to dγ and dβ, [2, N, C]."""
    coefficients, of_parameters = sizes.table(table, 3), None if weight is None else torch.empty_like(table)
    grid, counts, tiling = _group_tiles(sizes, number)
    group_gradients[grid](
        table,
        sums,
        weight,
        statistics,
        following,
        coefficients,
        of_parameters,
        sizes.samples,
        sizes.channels,
        *counts,
        IS_AFFINE=weight is not None,
        FOLLOWED=following is not None,
        **tiling,
    )
    return coefficients, of_parameters


def _grouped_back(
    kind: Grouped,
    sizes: Sizes,
    table: Tensor,
    sums: Tensor,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[Tensor, Parameters]:
    (statistics,) = kept
    of_channels = None if kind.per_position else weight
    coefficients, rows = _pass_groups_back(sizes, kind.number, table, sums, statistics, of_channels)
    return coefficients, (None, None) if rows is None else rows.sum(1).unbind(0)


def _continual(
    kind: Continual, sizes: Sizes, table: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    of_groups, _ = _group_statistics(sizes, table, kind.number, kind.eps)
    running, coefficients = kind.running, torch.empty_like(table)
    statistics = table.new_empty(2, len(kind.sizes), sizes.channels)
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    continual_tables[grid](
        table,
        of_groups,
        _shares(kind.sizes, table),
        weight,
        bias,
        statistics,
        running.mean,
        running.variance,
        running.num_tracked,
        coefficients,
        *sizes.counts,
        kind.number,
        sizes.channels // kind.number,
        kind.eps,
        running.momentum,
        IS_AFFINE=weight is not None,
        **tiling,
    )
    return coefficients, (of_groups, statistics)


def _continual_back(
    kind: Continual,
    sizes: Sizes,
    table: Tensor,
    sums: Tensor,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[Tensor, Parameters]:
    of_groups, statistics = kept
    coefficients, grads = sizes.table(table, 3), for_gradients(weight)
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    continual_gradients[grid](
        table,
        sums,
        of_groups,
        _shares(kind.sizes, table),
        weight,
        statistics,
        coefficients,
        *grads,
        sizes.samples,
        sizes.channels,
        kind.number,
        sizes.channels // kind.number,
        IS_AFFINE=weight is not None,
        **tiling,
    )
    coefficients, _ = _pass_groups_back(sizes, kind.number, table, sums, of_groups, None, coefficients)
    return coefficients, grads


def _renormalized(
    kind: Renormalized, sizes: Sizes, table: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    for running in (kind.running_mean, kind.running_std):
        increment_version(running)  # autograd is to know that it has changed
    coefficients, statistics = torch.empty_like(table), table.new_empty(4, len(kind.sizes), sizes.channels)
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    renormalized_tables[grid](
        table,
        _shares(kind.sizes, table),
        weight,
        bias,
        kind.limits,
        kind.num_tracked,
        kind.running_mean,
        kind.running_std,
        statistics,
        coefficients,
        sizes.samples,
        sizes.channels,
        len(kind.limits) - 1,
        kind.eps,
        kind.momentum,
        IS_AFFINE=weight is not None,
        **tiling,
    )
    return coefficients, (statistics,)


def _renormalized_back(
    kind: Renormalized,
    sizes: Sizes,
    table: Tensor,
    sums: Tensor,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
) -> tuple[Tensor, Parameters]:
    coefficients, grads = sizes.table(table, 3), for_gradients(weight)
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    renormalized_gradients[grid](
        table,
        sums,
        _shares(kind.sizes, table),
        weight,
        *kept,
        coefficients,
        *grads,
        sizes.samples,
        sizes.channels,
        IS_AFFINE=weight is not None,
        **tiling,
    )
    return coefficients, grads


def _switchable(
    kind: Switchable,
    sizes: Sizes,
    table: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    of_layer, _ = _group_statistics(sizes, table, 1, kind.eps, _unbiased(sizes))
    coefficients, mixed = torch.empty_like(table), torch.empty_like(table)
    statistics = table.new_empty(2, len(kind.sizes), sizes.channels)
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    switchable_tables[grid](
        table,
        of_layer,
        mean_logits,
        var_logits,
        _shares(kind.sizes, table),
        weight,
        bias,
        kind.running_mean,
        kind.running_var,
        statistics,
        mixed,
        coefficients,
        sizes.samples,
        sizes.channels,
        kind.eps,
        _unbiased(sizes),
        kind.momentum,
        IS_AFFINE=weight is not None,
        **tiling,
    )
    return coefficients, (of_layer, statistics, mixed)


def _switchable_back(
    kind: Switchable,
    sizes: Sizes,
    table: Tensor,
    sums: Tensor,
    kept: tuple[Tensor, ...],
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, Parameters]:
    of_layer, statistics, mixed = kept
    coefficients, grads = sizes.table(table, 3), for_gradients(weight)
    passed, is_affine = table.new_empty(2, sizes.samples), weight is not None
    grid, tiling = _column_tiles(sizes, len(kind.sizes))
    of_shares = table.new_empty(*grid, 2, 3)
    whole = {"IS_AFFINE": is_affine, "WIDTH": triton.next_power_of_2(sizes.channels)}
    switchable_means[(sizes.samples,)](table, sums, mixed, weight, passed, sizes.samples, sizes.channels, **whole)
    switchable_gradients[grid](
        table,
        sums,
        of_layer,
        passed,
        mean_logits,
        var_logits,
        _shares(kind.sizes, table),
        weight,
        statistics,
        mixed,
        coefficients,
        *grads,
        of_shares,
        sizes.samples,
        sizes.channels,
        _unbiased(sizes),
        IS_AFFINE=is_affine,
        **tiling,
    )
    shares = torch.softmax(torch.stack((mean_logits, var_logits)).to(table.dtype), 1)
    of_logits = torch.ops.aten._softmax_backward_data(of_shares.sum(0), shares, 1, shares.dtype)
    return coefficients, (*grads, *of_logits.unbind(0))


def _shares(sizes: tuple[int, ...], table: Tensor) -> Tensor:
    """Of the samples in the batches, [batches, N]."""
    return batches(sizes, table.device, table.dtype).shares


def _unbiased(sizes: Sizes) -> float:
    """What makes a row's variance unbiased."""
    return sizes.pixels / (sizes.pixels - 1)


_TABLES: dict[type, Callable[..., tuple[Tensor, tuple[Tensor, ...]]]] = {
    Grouped: _grouped,
    Continual: _continual,
    Renormalized: _renormalized,
    Switchable: _switchable,
}
_GRADIENTS: dict[type, Callable[..., tuple[Tensor, Parameters]]] = {
    Grouped: _grouped_back,
    Continual: _continual_back,
    Renormalized: _renormalized_back,
    Switchable: _switchable_back,
}
