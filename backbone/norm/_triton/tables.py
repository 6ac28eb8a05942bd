"""Tables [N, C] between two passes over maps, for layers of several kinds of statistics, on a GPU.

Kernels are of two kinds: one has a program for some groups of channels of a sample, the other for some channels of all
samples, whose batches it takes one after another, in a grid of one axis (`_fused_rows.py` has the mathematics).
"""

import triton
import triton.language as tl

from .maps import scale_of


@triton.jit
def _pass_on(slope, offset, x_slope, coefficients, rows, there, num_rows):
    """Write α, δ and ε."""
    tl.store(coefficients + rows, slope, there)
    tl.store(coefficients + num_rows + rows, offset, there)
    tl.store(coefficients + 2 * num_rows + rows, x_slope, there)


# -- tables by groups of channels of a sample --------------------------------------------------------------------------


@triton.jit
def _group_places(num_channels, num_groups, width, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """A program's groups [G]; the channels of its sample that they have, [G, W]; their rows; and which are there."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    inside = tl.arange(0, WIDTH)
    channel = group[:, None] * width + inside[None, :]
    there = (group[:, None] < num_groups) & (inside[None, :] < width)
    return group, channel, tl.program_id(0) * num_channels + channel, there


@triton.jit
def group_tables(
    table,
    weight,
    bias,
    statistics,
    coefficients,
    num_samples,
    num_channels,
    num_groups,
    width,
    eps,
    unbiased,
    IS_AFFINE: tl.constexpr,
    ENDS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Mean, variance and k of every group, [3, N, groups], and A and B if nothing follows. Grid: (N, groups).

    A row's variance counts as often as `unbiased` says.
    """
    group, channel, rows, there = _group_places(num_channels, num_groups, width, GROUPS, WIDTH)
    means = tl.load(table + rows, there, other=0.0)
    variances = tl.load(table + num_samples * num_channels + rows, there, other=0.0) * unbiased
    mean = tl.sum(means, 1) / width
    distances = tl.where(there, means - mean[:, None], 0.0)
    variance = tl.sum(variances + distances * distances, 1) / width
    inverse_std = 1.0 / tl.sqrt(variance + eps)
    place = statistics + tl.program_id(0) * num_groups + group
    tl.store(place, mean, group < num_groups)
    tl.store(place + num_samples * num_groups, variance, group < num_groups)
    tl.store(place + 2 * num_samples * num_groups, inverse_std, group < num_groups)
    if ENDS:
        slope = tl.broadcast_to(inverse_std[:, None], (GROUPS, WIDTH))
        if IS_AFFINE:
            slope *= tl.load(weight + channel, there, other=0.0).to(tl.float32)
        offset = slope * distances
        if IS_AFFINE:
            offset += tl.load(bias + channel, there, other=0.0).to(tl.float32)
        tl.store(coefficients + rows, slope, there)
        tl.store(coefficients + num_samples * num_channels + rows, offset, there)


@triton.jit
def group_gradients(
    table,
    sums,
    weight,
    statistics,
    following,
    coefficients,
    of_parameters,
    num_samples,
    num_channels,
    num_groups,
    width,
    IS_AFFINE: tl.constexpr,
    FOLLOWED: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """α, δ and ε, and what every row has of the gradients of scale and shift, [2, N, C]. Grid: (N, groups).

    With a step that follows, these are its own, of the maps that it takes.
    """
    group, channel, rows, there = _group_places(num_channels, num_groups, width, GROUPS, WIDTH)
    num_rows = num_samples * num_channels
    place = statistics + tl.program_id(0) * num_groups + group
    mean = tl.load(place, group < num_groups, other=0.0)[:, None]
    inverse_std = tl.load(place + 2 * num_samples * num_groups, group < num_groups, other=0.0)[:, None]
    distances = tl.load(table + rows, there, other=0.0) - mean
    total = tl.load(sums + rows, there, other=0.0)
    products = tl.load(sums + num_rows + rows, there, other=0.0)
    if FOLLOWED:
        slope = tl.load(following + rows, there, other=0.0)
        offset = tl.load(following + num_rows + rows, there, other=0.0)
        x_slope = tl.load(following + 2 * num_rows + rows, there, other=0.0)
        total = slope * total + offset
        products = slope * products + x_slope * tl.load(table + num_rows + rows, there, other=0.0)
    products += distances * total
    if IS_AFFINE:
        tl.store(of_parameters + rows, inverse_std * products, there)
        tl.store(of_parameters + num_rows + rows, total, there)
        scale = tl.load(weight + channel, there, other=0.0).to(tl.float32)
        total *= scale
        products *= scale
    of_mean = -inverse_std * tl.sum(total, 1)[:, None] / width
    of_variance = -0.5 * inverse_std * inverse_std * inverse_std * tl.sum(products, 1)[:, None] / width
    new_offset = of_mean + 2.0 * of_variance * distances
    new_x_slope = tl.broadcast_to(2.0 * of_variance, (GROUPS, WIDTH))
    new_slope = tl.broadcast_to(inverse_std, (GROUPS, WIDTH))
    if IS_AFFINE:
        new_slope *= scale
    if FOLLOWED:
        new_slope *= slope
        new_offset += inverse_std * offset
        new_x_slope += inverse_std * x_slope
    _pass_on(new_slope, new_offset, new_x_slope, coefficients, rows, there, num_rows)


# -- tables by channels of all samples ---------------------------------------------------------------------------------


@triton.jit
def _columns(num_samples, num_channels, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's channels [C], the samples [N], their rows [N, C], and which of these are there."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    sample = tl.arange(0, SAMPLES)
    known = (sample[:, None] < num_samples) & (channel[None, :] < num_channels)
    return channel, sample, sample[:, None] * num_channels + channel[None, :], known


@triton.jit
def _shares_of(shares, batch, sample, num_samples):
    """The share of every sample in a batch, and 1 for those that it has, [N, 1] each."""
    share = tl.load(shares + batch * num_samples + sample, sample < num_samples, other=0.0)[:, None]
    return share, (share > 0.0).to(tl.float32)


@triton.jit
def _of_groups(mean, group, known, num_groups):
    """k of the rows' groups, and the means of their maps once these are normalised."""
    inverse_std = tl.load(group + 2 * num_groups, known, other=0.0)
    return inverse_std, inverse_std * (tl.load(mean, known, other=0.0) - tl.load(group, known, other=0.0))


@triton.jit
def _end(slope, offset, weight, bias, coefficients, rows, channel, is_there, known, num_rows, IS_AFFINE: tl.constexpr):
    """Write A and B, with scale and shift."""
    if IS_AFFINE:
        scale = tl.load(weight + channel, is_there, other=0.0).to(tl.float32)[None, :]
        slope *= scale
        offset = offset * scale + tl.load(bias + channel, is_there, other=0.0).to(tl.float32)[None, :]
    tl.store(coefficients + rows, slope, known)
    tl.store(coefficients + num_rows + rows, offset, known)


@triton.jit
def continual_tables(
    table,
    of_groups,
    shares,
    weight,
    bias,
    statistics,
    running_mean,
    running_var,
    num_tracked,
    coefficients,
    num_samples,
    num_channels,
    num_pixels,
    num_groups,
    width,
    eps,
    momentum,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A and B, the mean and k of every batch of normalised groups, [2, batches, C], and the running statistics."""
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    group = sample[:, None] * num_groups + channel[None, :] // width
    inner, means = _of_groups(table + rows, of_groups + group, known, num_samples * num_groups)
    variances = inner * inner * tl.load(table + num_rows + rows, known, other=0.0)
    tracked_mean = tl.load(running_mean + channel, is_there, other=0.0)
    tracked_var = tl.load(running_var + channel, is_there, other=0.0)
    slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    offset = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        mean = tl.sum(share * means, 0)
        distances = means - mean[None, :]
        variance = tl.sum(share * (variances + distances * distances), 0)
        inverse_std = 1.0 / tl.sqrt(variance + eps)
        slope += member * inverse_std[None, :]
        offset += member * inverse_std[None, :] * distances
        tl.store(statistics + batch * num_channels + channel, mean, is_there)
        tl.store(statistics + (BATCHES + batch) * num_channels + channel, inverse_std, is_there)
        number = tl.sum(member) * num_pixels
        tracked_mean += momentum * (mean - tracked_mean)
        tracked_var += momentum * (variance * (number / (number - 1.0)) - tracked_var)
    tl.store(running_mean + channel, tracked_mean, is_there)
    tl.store(running_var + channel, tracked_var, is_there)
    if tl.program_id(0) == 0:
        tl.store(num_tracked, tl.load(num_tracked) + BATCHES)
    _end(slope * inner, offset, weight, bias, coefficients, rows, channel, is_there, known, num_rows, IS_AFFINE)


@triton.jit
def continual_gradients(
    table,
    sums,
    of_groups,
    shares,
    weight,
    statistics,
    coefficients,
    grad_weight,
    grad_bias,
    num_samples,
    num_channels,
    num_groups,
    width,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """α', δ' and ε' of the normalised groups, as of x, and the gradients of scale and shift."""
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    group = sample[:, None] * num_groups + channel[None, :] // width
    inner, means = _of_groups(table + rows, of_groups + group, known, num_samples * num_groups)
    totals = tl.load(sums + rows, known, other=0.0)
    products = inner * tl.load(sums + num_rows + rows, known, other=0.0)
    scale = scale_of(weight, channel, is_there, IS_AFFINE, CHANNELS)
    of_weight = tl.zeros((CHANNELS,), tl.float32)
    of_bias = tl.zeros((CHANNELS,), tl.float32)
    slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    offset = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    x_slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        mean = tl.load(statistics + batch * num_channels + channel, is_there, other=0.0)
        inverse_std = tl.load(statistics + (BATCHES + batch) * num_channels + channel, is_there, other=0.0)
        distances = means - mean[None, :]
        of_shift = tl.sum(member * totals, 0)
        of_slope = tl.sum(member * (products + distances * totals), 0)
        of_bias += of_shift
        of_weight += inverse_std * of_slope
        of_mean = -scale * inverse_std * of_shift
        of_variance = -0.5 * scale * inverse_std * inverse_std * inverse_std * of_slope
        slope += member * (scale * inverse_std)[None, :]
        offset += share * (of_mean[None, :] + 2.0 * of_variance[None, :] * distances)
        x_slope += share * 2.0 * of_variance[None, :] * inner
    _pass_on(slope, offset, x_slope, coefficients, rows, known, num_rows)
    if IS_AFFINE:
        tl.store(grad_weight + channel, of_weight, is_there)
        tl.store(grad_bias + channel, of_bias, is_there)


@triton.jit
def _limited(values, lowest, highest):
    values = tl.maximum(values, lowest, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(values, highest, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def renormalized_tables(
    table,
    shares,
    weight,
    bias,
    limits,
    num_tracked,
    running_mean,
    running_std,
    statistics,
    coefficients,
    num_samples,
    num_channels,
    last_limit,
    eps,
    momentum,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A and B; mean, r / σ, d and 1 / (σ s) of every batch, [4, batches, C]; and the running statistics.

    The batches have been counted before: other programs need the number, too.
    """
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    means = tl.load(table + rows, known, other=0.0)
    variances = tl.load(table + num_rows + rows, known, other=0.0)
    tracked_mean = tl.load(running_mean + channel, is_there, other=0.0)
    tracked_std = tl.load(running_std + channel, is_there, other=1.0)
    before = tl.load(num_tracked) - BATCHES
    slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    offset = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        mean = tl.sum(share * means, 0)
        distances = means - mean[None, :]
        deviation = tl.sqrt(tl.sum(share * (variances + distances * distances), 0))
        std = deviation + eps
        limit = limits + 4 * tl.minimum(before + batch, last_limit)
        ratio = _limited(std / tracked_std, tl.load(limit), tl.load(limit + 2)) / std
        shift = _limited((mean - tracked_mean) / tracked_std, tl.load(limit + 1), tl.load(limit + 3))
        spreads = deviation > 0.0
        inverse = tl.where(spreads, 1.0, 0.0) / tl.where(spreads, std * deviation, 1.0)
        tracked_mean += momentum * (mean - tracked_mean)
        tracked_std += momentum * (std - tracked_std)
        slope += member * ratio[None, :]
        offset += member * (ratio[None, :] * distances + shift[None, :])
        place = statistics + batch * num_channels + channel
        tl.store(place, mean, is_there)
        tl.store(place + BATCHES * num_channels, ratio, is_there)
        tl.store(place + 2 * BATCHES * num_channels, shift, is_there)
        tl.store(place + 3 * BATCHES * num_channels, inverse, is_there)
    tl.store(running_mean + channel, tracked_mean, is_there)
    tl.store(running_std + channel, tracked_std, is_there)
    _end(slope, offset, weight, bias, coefficients, rows, channel, is_there, known, num_rows, IS_AFFINE)


@triton.jit
def renormalized_gradients(
    table,
    sums,
    shares,
    weight,
    statistics,
    coefficients,
    grad_weight,
    grad_bias,
    num_samples,
    num_channels,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """α, δ and ε, and the gradients of scale and shift."""
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    means = tl.load(table + rows, known, other=0.0)
    totals = tl.load(sums + rows, known, other=0.0)
    products = tl.load(sums + num_rows + rows, known, other=0.0)
    scale = scale_of(weight, channel, is_there, IS_AFFINE, CHANNELS)
    of_weight = tl.zeros((CHANNELS,), tl.float32)
    of_bias = tl.zeros((CHANNELS,), tl.float32)
    slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    offset = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    x_slope = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        place = statistics + batch * num_channels + channel
        distances = means - tl.load(place, is_there, other=0.0)[None, :]
        ratio = tl.load(place + BATCHES * num_channels, is_there, other=0.0)
        shift = tl.load(place + 2 * BATCHES * num_channels, is_there, other=0.0)
        inverse = tl.load(place + 3 * BATCHES * num_channels, is_there, other=0.0)
        of_shift = tl.sum(member * totals, 0)
        of_slope = tl.sum(member * (products + distances * totals), 0)
        of_bias += of_shift
        of_weight += ratio * of_slope + shift * of_shift
        own_slope = scale * ratio
        own_x_slope = -own_slope * inverse * of_slope
        slope += member * own_slope[None, :]
        offset += share * (own_x_slope[None, :] * distances - (own_slope * of_shift)[None, :])
        x_slope += share * own_x_slope[None, :]
    _pass_on(slope, offset, x_slope, coefficients, rows, known, num_rows)
    if IS_AFFINE:
        tl.store(grad_weight + channel, of_weight, is_there)
        tl.store(grad_bias + channel, of_bias, is_there)


@triton.jit
def _softmax(logits):
    """The shares of the instance, the layer and the batch."""
    first, second = tl.load(logits).to(tl.float32), tl.load(logits + 1).to(tl.float32)
    third = tl.load(logits + 2).to(tl.float32)
    largest = tl.maximum(tl.maximum(first, second), third)
    first, second, third = tl.exp(first - largest), tl.exp(second - largest), tl.exp(third - largest)
    total = first + second + third
    return first / total, second / total, third / total


@triton.jit
def switchable_tables(
    table,
    of_layer,
    mean_logits,
    var_logits,
    shares,
    weight,
    bias,
    running_mean,
    running_var,
    statistics,
    mixed,
    coefficients,
    num_samples,
    num_channels,
    eps,
    unbiased,
    momentum,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A and B; mean and variance of every batch, [2, batches, C]; μ and k, [2, N, C]; and the running statistics."""
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    means = tl.load(table + rows, known, other=0.0)
    variances = tl.load(table + num_rows + rows, known, other=0.0) * unbiased
    mean_instance, mean_layer, mean_batch = _softmax(mean_logits)
    var_instance, var_layer, var_batch = _softmax(var_logits)
    layer = tl.load(of_layer + sample, sample < num_samples, other=0.0)[:, None]
    layer_var = tl.load(of_layer + num_samples + sample, sample < num_samples, other=0.0)[:, None]
    center = mean_instance * means + mean_layer * layer
    variance = var_instance * variances + var_layer * layer_var
    tracked_mean = tl.load(running_mean + channel, is_there, other=0.0)
    tracked_var = tl.load(running_var + channel, is_there, other=0.0)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        own_mean = tl.sum(share * means, 0)
        distances = means - own_mean[None, :]
        own_var = tl.sum(share * (variances + distances * distances), 0)
        center += member * mean_batch * own_mean[None, :]
        variance += member * var_batch * own_var[None, :]
        tl.store(statistics + batch * num_channels + channel, own_mean, is_there)
        tl.store(statistics + (BATCHES + batch) * num_channels + channel, own_var, is_there)
        tracked_mean += momentum * (own_mean - tracked_mean)
        tracked_var += momentum * (own_var - tracked_var)
    tl.store(running_mean + channel, tracked_mean, is_there)
    tl.store(running_var + channel, tracked_var, is_there)
    inverse_std = 1.0 / tl.sqrt(variance + eps)
    tl.store(mixed + rows, center, known)
    tl.store(mixed + num_rows + rows, inverse_std, known)
    offset = inverse_std * (means - center)
    _end(inverse_std, offset, weight, bias, coefficients, rows, channel, is_there, known, num_rows, IS_AFFINE)


@triton.jit
def _of_statistics(table, sums, mixed, rows, there, num_rows):
    """dμ and dV but for γ, k, and K, of rows."""
    inverse_std = tl.load(mixed + num_rows + rows, there, other=0.0)
    distances = tl.load(table + rows, there, other=0.0) - tl.load(mixed + rows, there, other=0.0)
    total = tl.load(sums + rows, there, other=0.0)
    products = tl.load(sums + num_rows + rows, there, other=0.0) + distances * total
    return -inverse_std * total, -0.5 * inverse_std * inverse_std * inverse_std * products, inverse_std, products


@triton.jit
def switchable_means(
    table,
    sums,
    mixed,
    weight,
    passed,
    num_samples,
    num_channels,
    IS_AFFINE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """What a layer's mean and variance hand on to each of its channels, [2, N]. Grid: (N,)."""
    sample, channel = tl.program_id(0), tl.arange(0, WIDTH)
    there, rows = channel < num_channels, sample * num_channels + channel
    of_mean, of_variance, _, _ = _of_statistics(table, sums, mixed, rows, there, num_samples * num_channels)
    if IS_AFFINE:
        scale = tl.load(weight + channel, there, other=0.0).to(tl.float32)
        of_mean *= scale
        of_variance *= scale
    tl.store(passed + sample, tl.sum(of_mean, 0) / num_channels)
    tl.store(passed + num_samples + sample, tl.sum(of_variance, 0) / num_channels)


@triton.jit
def switchable_gradients(
    table,
    sums,
    of_layer,
    passed,
    mean_logits,
    var_logits,
    shares,
    weight,
    statistics,
    mixed,
    coefficients,
    grad_weight,
    grad_bias,
    grad_shares,
    num_samples,
    num_channels,
    unbiased,
    BATCHES: tl.constexpr,
    IS_AFFINE: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """α, δ and ε, the gradients of scale and shift, and those of the six shares from its channels, [programs, 2, 3].

    The latter are less those of the instances, as a softmax passes back nothing of what all have in common.
    """
    channel, sample, rows, known = _columns(num_samples, num_channels, SAMPLES, CHANNELS)
    is_there, num_rows = channel < num_channels, num_samples * num_channels
    of_mean, of_variance, inverse_std, products = _of_statistics(table, sums, mixed, rows, known, num_rows)
    slope = inverse_std
    if IS_AFFINE:
        tl.store(grad_weight + channel, tl.sum(inverse_std * products, 0), is_there)
        tl.store(grad_bias + channel, tl.sum(tl.load(sums + rows, known, other=0.0), 0), is_there)
        scale = tl.load(weight + channel, is_there, other=0.0).to(tl.float32)[None, :]
        of_mean *= scale
        of_variance *= scale
        slope *= scale
    means = tl.load(table + rows, known, other=0.0)
    variances = tl.load(table + num_rows + rows, known, other=0.0) * unbiased
    mean_instance, mean_layer, mean_batch = _softmax(mean_logits)
    var_instance, var_layer, var_batch = _softmax(var_logits)
    layer = tl.load(of_layer + sample, sample < num_samples, other=0.0)[:, None]
    layer_var = tl.load(of_layer + num_samples + sample, sample < num_samples, other=0.0)[:, None]
    of_layer_mean = tl.load(passed + sample, sample < num_samples, other=0.0)[:, None]
    of_layer_var = tl.load(passed + num_samples + sample, sample < num_samples, other=0.0)[:, None]
    offset = mean_instance * of_mean + mean_layer * of_layer_mean
    offset += 2.0 * var_layer * of_layer_var * (means - layer)
    own_variance = var_instance * of_variance + var_layer * of_layer_var
    batch_mean = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    batch_var = tl.zeros((SAMPLES, CHANNELS), tl.float32)
    for batch in tl.static_range(BATCHES):
        share, member = _shares_of(shares, batch, sample, num_samples)
        own_mean = tl.load(statistics + batch * num_channels + channel, is_there, other=0.0)[None, :]
        own_var = tl.load(statistics + (BATCHES + batch) * num_channels + channel, is_there, other=0.0)[None, :]
        passed_mean = tl.sum(share * of_mean, 0)[None, :]
        passed_var = tl.sum(share * of_variance, 0)[None, :]
        offset += member * (mean_batch * passed_mean + 2.0 * var_batch * passed_var * (means - own_mean))
        own_variance += member * var_batch * passed_var
        batch_mean += member * own_mean
        batch_var += member * own_var
    _pass_on(slope, offset, 2.0 * unbiased * own_variance, coefficients, rows, known, num_rows)
    place = grad_shares + 6 * tl.program_id(0)
    tl.store(place, 0.0)
    tl.store(place + 1, tl.sum(of_mean * (layer - means)))
    tl.store(place + 2, tl.sum(of_mean * (batch_mean - means)))
    tl.store(place + 3, 0.0)
    tl.store(place + 4, tl.sum(of_variance * (layer_var - variances)))
    tl.store(place + 5, tl.sum(of_variance * (batch_var - variances)))
