"""Passes over feature maps on a GPU, for kernels of every kind, and how maps are divided among programs.

A row is one channel of one sample, its pixels are summed by one program: nothing is summed in an order that changes
from run to run. Tables are float32; maps are read and written as they lie, contiguous or channels-last.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._fused import CHANNELS_OF_COPY, num_copies

# What a program takes at a time; the fastest of some on an H100 (benchmarks/results).
_LARGE_ROWS = {"PIXELS": 256, "CHANNELS": 16}
_SMALL_ROWS = {"PIXELS": 128, "CHANNELS": 32}  # of at most 256 pixels
_TILE = {"PIXELS": 128, "CHANNELS": CHANNELS_OF_COPY}


@triton.jit
def tile(pixel, channel, num_pixels, num_channels, CHANNELS_LAST: tl.constexpr):
    """Where pixels [P] of channels [C] lie in a sample, [P, C], and which of them are there."""
    if CHANNELS_LAST:
        places = pixel[:, None] * num_channels + channel[None, :]
    else:
        places = pixel[:, None] + channel[None, :] * num_pixels
    return places, (pixel[:, None] < num_pixels) & (channel[None, :] < num_channels)


@triton.jit
def at_positions(weight, pixel, channel, num_pixels, num_channels):
    """Weights [C, HW] of pixels [P] of channels [C], [P, C]."""
    places, there = tile(pixel, channel, num_pixels, num_channels, False)
    return tl.load(weight + places, there, other=0.0).to(tl.float32)


@triton.jit
def scale_of(weight, channel, is_there, IS_AFFINE: tl.constexpr, CHANNELS: tl.constexpr):
    """The scale of channels [C], 1 without."""
    scale = tl.full((CHANNELS,), 1.0, tl.float32)
    if IS_AFFINE:
        scale = tl.load(weight + channel, is_there, other=0.0).to(tl.float32)
    return scale


@triton.jit
def end_layer(values, added, y, places, there, ADDS: tl.constexpr, RECTIFIES: tl.constexpr):
    """Write what a layer gives, float32, with what is added and a ReLU."""
    if ADDS:
        values += tl.load(added + places, there, other=0.0).to(tl.float32)
    if RECTIFIES:
        values = tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + places, values.to(y.dtype.element_ty), there)


@triton.jit
def row_moments(
    x,
    table,
    num_samples,
    num_channels,
    num_pixels,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and biased variance of every row: table [2, N, C]. Grid: (N, blocks of channels)."""
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x += sample * num_channels * num_pixels
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, num_pixels, PIXELS):
        places, there = tile(start + tl.arange(0, PIXELS), channel, num_pixels, num_channels, CHANNELS_LAST)
        total += tl.load(x + places, there, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / num_pixels
    squares = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, num_pixels, PIXELS):
        places, there = tile(start + tl.arange(0, PIXELS), channel, num_pixels, num_channels, CHANNELS_LAST)
        distances = tl.load(x + places, there, other=0.0).to(tl.float32) - mean[None, :]
        squares += tl.where(there, distances * distances, 0.0)
    table += sample * num_channels + channel
    tl.store(table, mean, channel < num_channels)
    tl.store(table + num_samples * num_channels, tl.sum(squares, 0) / num_pixels, channel < num_channels)


@triton.jit
def row_sums(
    gradient,
    x,
    y,
    rectified,
    weight,
    table,
    sums,
    num_samples,
    num_channels,
    num_pixels,
    RECTIFIES: tl.constexpr,
    PER_POSITION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σ g and Σ g · (x - mean of the row) of every row: sums [2, N, C]. Grid: (N, blocks of channels).

    With a ReLU, the gradient goes on only where its result y is not 0 or less, and is written as it goes on. With
    weights for every position, [C, HW], the sums are of its products with these.
    """
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_there = channel < num_channels
    first = sample * num_channels * num_pixels
    mean = tl.load(table + sample * num_channels + channel, is_there, other=0.0)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    products = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, num_pixels, PIXELS):
        places, there = tile(start + tl.arange(0, PIXELS), channel, num_pixels, num_channels, CHANNELS_LAST)
        places += first
        received = tl.load(gradient + places, there, other=0.0)
        if RECTIFIES:
            received = tl.where(tl.load(y + places, there, other=0.0) <= 0, 0.0, received).to(gradient.dtype.element_ty)
            tl.store(rectified + places, received, there)
        received = received.to(tl.float32)
        if PER_POSITION:
            received *= at_positions(weight, start + tl.arange(0, PIXELS), channel, num_pixels, num_channels)
        total += received
        products += received * (tl.load(x + places, there, other=0.0).to(tl.float32) - mean[None, :])
    sums += sample * num_channels + channel
    tl.store(sums, tl.sum(total, 0), is_there)
    tl.store(sums + num_samples * num_channels, tl.sum(products, 0), is_there)


@dataclass(frozen=True)
class Sizes:
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
    def of(cls, x: Tensor, groups: int = 1) -> "Sizes":
        return cls(len(x), x.shape[1], x.shape[2:].numel(), groups, not x.is_contiguous())

    def table(self, x: Tensor, number: int) -> Tensor:
        """For so many numbers of every row."""
        return x.new_empty((number, self.samples, self.channels), dtype=torch.float32)

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
        return _TILE | {"GROUPS": self.groups, "SAMPLES": self.padded_samples, "CHANNELS_LAST": self.channels_last}

    @property
    def padded_samples(self) -> int:
        """Of a tile with a row for every sample."""
        return max(16, triton.next_power_of_2(self.samples))
