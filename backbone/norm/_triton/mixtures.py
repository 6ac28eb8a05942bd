"""Kernels for GPUs, of layers that normalise by mixtures of rows (`_fused.py` has the mathematics).

The first kernel of each pass goes over the maps for tables [N, C], and the programs of the second do the rest for their
channels from these.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._fused import Given, Kept, for_gradients
from ..base import RunningNorm
from .maps import Sizes, end_layer, row_moments, row_sums, scale_of, tile
from .rows import TritonRows

_MOST_SAMPLES = 128  # of which every program reads the tables
_MOST_GROUPS = 16  # which a kernel has one after another: to make one of 48 takes a minute
_AMPERE = (8, 0)  # the first that knows bfloat16


@triton.jit
def normalize(
    x,
    added,
    y,
    table,
    shares,
    outputs,
    weight,
    bias,
    statistics,
    running_mean,
    running_var,
    num_tracked,
    num_samples,
    num_channels,
    num_pixels,
    eps,
    momentum,
    GROUPS: tl.constexpr,
    SAMPLES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    TRACKS: tl.constexpr,
    ADDS: tl.constexpr,
    RECTIFIES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Statistics of the groups, [3, G, C], the running statistics, and the maps. Grid: (pixels, channels, N)."""
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_there = channel < num_channels
    is_first = (tl.program_id(0) == 0) & (sample == 0)
    row = tl.arange(0, SAMPLES)
    rows = row[:, None] * num_channels + channel[None, :]
    known = (row[:, None] < num_samples) & is_there[None, :]
    means = tl.load(table + rows, known, other=0.0)
    variances = tl.load(table + num_samples * num_channels + rows, known, other=0.0)
    own_mean = tl.load(table + sample * num_channels + channel, is_there, other=0.0)
    slope = tl.zeros((CHANNELS,), tl.float32)
    offset = tl.zeros((CHANNELS,), tl.float32)
    if TRACKS:
        tracked_mean = tl.load(running_mean + channel, is_there, other=0.0)
        tracked_var = tl.load(running_var + channel, is_there, other=0.0)
    for group in tl.static_range(GROUPS):
        share = tl.load(shares + group * num_samples + row, row < num_samples, other=0.0)
        mean = tl.sum(share[:, None] * means, 0)
        distances = means - mean[None, :]
        variance = tl.sum(share[:, None] * (variances + distances * distances), 0)
        inverse_std = 1.0 / tl.sqrt(variance + eps)
        output = tl.load(outputs + sample * GROUPS + group)
        slope += output * inverse_std
        offset += output * inverse_std * (own_mean - mean)
        if is_first:
            place = statistics + group * num_channels + channel
            tl.store(place, mean, is_there)
            tl.store(place + GROUPS * num_channels, variance, is_there)
            tl.store(place + 2 * GROUPS * num_channels, inverse_std, is_there)
        if TRACKS:
            members = tl.sum((share > 0.0).to(tl.float32), 0) * num_pixels
            unbiased = variance * (members / (members - 1.0))
            tracked_mean += momentum * (mean - tracked_mean)
            tracked_var += momentum * (unbiased - tracked_var)
    if TRACKS:
        if is_first:
            tl.store(running_mean + channel, tracked_mean, is_there)
            tl.store(running_var + channel, tracked_var, is_there)
            if tl.program_id(1) == 0:
                tl.store(num_tracked, tl.load(num_tracked) + GROUPS)
    if IS_AFFINE:
        scale = tl.load(weight + channel, is_there, other=0.0).to(tl.float32)
        slope *= scale
        offset = offset * scale + tl.load(bias + channel, is_there, other=0.0).to(tl.float32)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    places, there = tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST)
    places += sample * num_channels * num_pixels
    values = tl.load(x + places, there, other=0.0).to(tl.float32) - own_mean[None, :]
    values = values * slope[None, :] + offset[None, :]
    end_layer(values, added, y, places, there, ADDS, RECTIFIES)


@triton.jit
def pass_on(
    gradient,
    x,
    grad_x,
    table,
    sums,
    shares,
    outputs,
    weight,
    statistics,
    grad_statistics,
    grad_weight,
    grad_bias,
    grad_shares,
    num_copies,
    num_samples,
    num_channels,
    num_pixels,
    GROUPS: tl.constexpr,
    SAMPLES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    HAS_STATISTICS: tl.constexpr,
    LEARNS_SHARES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of the maps, of scale and shift, and of the shares. Grid as `normalize`.

    Each block of channels gives the shares its part of their gradient, [copies, G, N] of at least as many copies as
    there are blocks; the others get 0.
    """
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_there = channel < num_channels
    is_first = (tl.program_id(0) == 0) & (sample == 0)
    row = tl.arange(0, SAMPLES)
    rows = row[:, None] * num_channels + channel[None, :]
    known = (row[:, None] < num_samples) & is_there[None, :]
    own_row = table + sample * num_channels + channel
    means = tl.load(table + rows, known, other=0.0)
    totals = tl.load(sums + rows, known, other=0.0)
    products = tl.load(sums + num_samples * num_channels + rows, known, other=0.0)
    own_mean = tl.load(own_row, is_there, other=0.0)
    scale = scale_of(weight, channel, is_there, IS_AFFINE, CHANNELS)
    of_weight = tl.zeros((CHANNELS,), tl.float32)
    of_bias = tl.zeros((CHANNELS,), tl.float32)
    slope = tl.zeros((CHANNELS,), tl.float32)
    x_slope = tl.zeros((CHANNELS,), tl.float32)
    offset = tl.zeros((CHANNELS,), tl.float32)
    for group in tl.static_range(GROUPS):
        place = group * num_channels + channel
        mean = tl.load(statistics + place, is_there, other=0.0)
        inverse_std = tl.load(statistics + 2 * GROUPS * num_channels + place, is_there, other=0.0)
        received = tl.load(outputs + row * GROUPS + group, row < num_samples, other=0.0)
        of_shift = tl.sum(received[:, None] * totals, 0)
        of_slope = tl.sum(received[:, None] * (products + (means - mean[None, :]) * totals), 0)
        of_bias += of_shift
        of_weight += inverse_std * of_slope
        of_mean = -scale * inverse_std * of_shift
        of_variance = -0.5 * scale * inverse_std * inverse_std * inverse_std * of_slope
        if HAS_STATISTICS:
            of_mean += tl.load(grad_statistics + place, is_there, other=0.0)
            of_variance += tl.load(grad_statistics + GROUPS * num_channels + place, is_there, other=0.0)
        share = tl.load(shares + group * num_samples + row, row < num_samples, other=0.0)
        of_mean -= 2.0 * of_variance * mean * (1.0 - tl.sum(share, 0))
        own_share = tl.load(shares + group * num_samples + sample)
        distance = own_mean - mean
        slope += tl.load(outputs + sample * GROUPS + group) * scale * inverse_std
        x_slope += own_share * 2.0 * of_variance
        offset += own_share * (of_mean + 2.0 * of_variance * distance)
        if LEARNS_SHARES:
            if tl.program_id(0) == 0:
                own_variance = tl.load(own_row + num_samples * num_channels, is_there, other=0.0)
                of_share = tl.sum(own_mean * of_mean + (own_variance + distance * distance) * of_variance, 0)
                tl.store(grad_shares + (tl.program_id(1) * GROUPS + group) * num_samples + sample, of_share)
                if tl.program_id(1) == 0:
                    for copy in range(tl.num_programs(1), num_copies):
                        tl.store(grad_shares + (copy * GROUPS + group) * num_samples + sample, 0.0)
    if IS_AFFINE:
        if is_first:
            tl.store(grad_weight + channel, of_weight, is_there)
            tl.store(grad_bias + channel, of_bias, is_there)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    places, there = tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST)
    places += sample * num_channels * num_pixels
    values = tl.load(x + places, there, other=0.0).to(tl.float32) - own_mean[None, :]
    values = (values * x_slope[None, :] + offset[None, :]) / num_pixels
    values += tl.load(gradient + places, there, other=0.0).to(tl.float32) * slope[None, :]
    tl.store(grad_x + places, values.to(grad_x.dtype.element_ty), there)


class TritonKernels:
    """The kernels of a GPU.

    Args:
        types: of the maps that they are for.
    """

    maker = f"Triton {triton.__version__}"

    def __init__(self, types: tuple[torch.dtype, ...]) -> None:
        self._types = types
        self.rows = TritonRows(types)

    @classmethod
    def made(cls, device: torch.device) -> "TritonKernels":
        """Those for a GPU, on which one of them is tried out."""
        x = torch.zeros(1, 16, 4, 4, device=device)
        sizes = Sizes.of(x, groups=1)
        with torch.cuda.device_of(x):
            row_moments[sizes.rows](x, sizes.table(x, 2), *sizes.counts, **sizes.row_tile)
        has_bfloat16 = torch.cuda.get_device_capability(x.device) >= _AMPERE
        return cls((torch.float32, torch.float16, *([torch.bfloat16] if has_bfloat16 else [])))

    def takes(self, layer: RunningNorm, x: Tensor, num_groups: int) -> bool:
        return x.dtype in self._types and len(x) <= _MOST_SAMPLES and num_groups <= _MOST_GROUPS

    def normalize(self, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mixing, running = given.x, given.weight, given.mixing, given.running
        sizes = Sizes.of(x, mixing.outputs.shape[1])
        table, statistics = sizes.table(x, 2), x.new_empty((3, sizes.groups, sizes.channels), dtype=torch.float32)
        y = torch.empty_like(x)
        moved = (None, None, None) if running is None else (running.mean, running.variance, running.num_tracked)
        with torch.cuda.device_of(x):  # where Triton starts kernels
            row_moments[sizes.rows](x, table, *sizes.counts, **sizes.row_tile)
            normalize[sizes.tiles](
                x,
                given.added,
                y,
                table,
                mixing.shares,
                mixing.outputs,
                weight,
                given.bias,
                statistics,
                *moved,
                *sizes.counts,
                given.eps,
                0.0 if running is None else running.momentum,
                IS_AFFINE=weight is not None,
                TRACKS=running is not None,
                ADDS=given.added is not None,
                RECTIFIES=given.rectified,
                **sizes.tile,
            )
        return y, table, statistics

    def pass_back(
        self, gradient: Tensor, grad_statistics: Tensor | None, kept: Kept, adds: bool, learns_shares: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        x, y, weight, shares, outputs = kept.x, kept.y, kept.weight, kept.mixing.shares, kept.mixing.outputs
        sizes = Sizes.of(x, outputs.shape[1])
        grad_x, sums = torch.empty_like(x), sizes.table(x, 2)
        received, gradient = gradient, gradient if y is None else torch.empty_like(x)
        grad_shares = torch.empty_like(shares, memory_format=torch.contiguous_format) if learns_shares else None
        grad_weight, grad_bias = for_gradients(weight)
        with torch.cuda.device_of(x):
            row_sums[sizes.rows](
                received,
                x,
                y,
                gradient,
                None,
                kept.table,
                sums,
                *sizes.counts,
                RECTIFIES=y is not None,
                PER_POSITION=False,
                **sizes.row_tile,
            )
            pass_on[sizes.tiles](
                gradient,
                x,
                grad_x,
                kept.table,
                sums,
                shares,
                outputs,
                weight,
                kept.statistics,
                grad_statistics,
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
        return grad_x, gradient if adds else None, grad_shares, grad_weight, grad_bias
