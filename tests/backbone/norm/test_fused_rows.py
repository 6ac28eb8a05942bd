"""The kernels of the layers that are no mixtures of samples give what their own operations give."""

import copy
from contextlib import nullcontext

import pytest
import torch

from backbone.norm import NormError, _fused_rows, separate_batches
from tests.backbone.norm.rig import fused, make, maps, same_state
from utils.config.registry import NORMS

NAMES = [name for name in NORMS.names() if NORMS.get(name).fused_on == ("cuda",)]
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=LAYOUTS, ids=("contiguous", "channels-last"))
def layout(request):
    return request.param


def step(layer, x, added, gradient, sizes=None):
    """Two training steps; all that comes of them, by name, in float64."""
    leaves = {"x": x.detach().requires_grad_(), "added": added.detach().requires_grad_()}
    for _ in range(2):
        with separate_batches(layer, sizes) if sizes else nullcontext():
            y = layer(leaves["x"], added=leaves["added"], rectified=True)
        named = leaves | dict(layer.named_parameters())
        grads = torch.autograd.grad(y, list(named.values()), gradient.to(y.dtype))
    found = {"y": y} | {f"gradient of {name}": each for name, each in zip(named, grads, strict=True)}
    return {name: each.detach().double() for name, each in (found | layer.state_dict()).items()}


def check(layer, x, added, gradient, sizes, times=1):
    """Against the layer's own operations in float64."""
    expected = step(copy.deepcopy(layer).double(), x.double(), added.double(), gradient.double(), sizes)
    with fused(x.device) as taken:
        found = step(layer, x, added, gradient, sizes)
    assert len(taken) == 2
    for name, value in expected.items():
        is_small = name.endswith(("mean_weight", "var_weight"))  # a difference of large sums
        error = (found[name] - value).norm() / value.norm().clamp(min=0.1 * value.numel() ** 0.5)
        assert error < times * TOLERANCES[x.dtype] * (30 if is_small else 1), f"{name}: {error}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5, 40, 3, 3), (3, 24, 17, 17), (17, 4, 2, 2), (2, 8, 24, 24)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_layers_do_the_same(name, shape, dtype, layout, device):
    """More channels, pixels and samples than a program takes at a time."""
    layer = make(name, channels=shape[1], side=shape[2])
    x, added, gradient = (
        maps(shape[0], *shape[1:3], seed=seed).to(dtype).contiguous(memory_format=layout) for seed in range(3)
    )
    check(layer, x, added, gradient, None)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 7), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_several_batches_are_normalised_one_after_another(name, sizes, affine, device):
    x, added, gradient = (maps(seed=seed) for seed in range(3))
    check(make(name, affine=affine), x, added, gradient, sizes)


@pytest.mark.parametrize("num_before", [4999, 12_000, 100_000])
def test_batch_renormalization_corrects_after_many_batches(num_before, device):
    layer = make("BRN")
    layer.num_batches_tracked.fill_(num_before)
    layer.running_mean.fill_(0.5)
    x, added, gradient = (maps(seed=seed) for seed in range(3))
    check(layer, x, added, gradient, (5, 7))


def test_a_channel_without_spread_has_no_gradient_by_its_deviation(device):
    layer, x = make("BRN"), maps(seed=0)
    x[:, 3] = 0.25
    added, gradient = (maps(seed=seed) for seed in (1, 2))
    check(layer, x, added, gradient, None, times=20)  # its mean is rounded, and its deviation then hardly above 0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_comes_again_bit_for_bit(name, device):
    def again():
        x, added, gradient = (maps(seed=seed) for seed in range(3))
        return step(make(name), x, added, gradient)

    with fused(device):
        assert same_state(again(), again())


@pytest.mark.parametrize("name", NAMES)
def test_nan_goes_on_as_through_a_relu(name, device):
    found = []
    for takes in (False, True):
        x, added, gradient = (maps(seed=seed) for seed in range(3))
        added[0, 0, 0, 0] = float("nan")
        with fused(device) if takes else nullcontext():
            found.append(step(make(name), x, added, gradient))
    for key, own in found[0].items():
        torch.testing.assert_close(found[1][key], own, equal_nan=True, rtol=1e-3, atol=1e-3)


def test_nothing_need_be_added_or_rectified(device):
    for name in NAMES:
        found = []
        for takes in (False, True):
            layer, x = make(name), maps(seed=0).requires_grad_()
            with fused(device) if takes else nullcontext([]) as taken:
                y = layer(x)
                found.append((y, *torch.autograd.grad(y.pow(3).sum(), x)))
            assert bool(taken) == takes
        for own, ours in zip(*found, strict=True):
            torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "num_batches"),
    [
        (torch.zeros(2, 8, 3, 6)[..., ::2], 1),
        (torch.zeros(2, 8, 3, 3, dtype=torch.float64), 1),
        (torch.zeros(129, 8, 1, 1), 1),
        (torch.zeros(17, 8, 1, 1), 17),
        (torch.zeros(1, 4097, 1, 1), 1),
    ],
    ids=("neither layout", "float64", "many samples", "many batches", "many channels"),
)
def test_other_maps_are_left_to_the_layers_own_operations(x, num_batches):
    usual = torch.zeros(2, 8, 3, 3)
    with fused(torch.device("cpu")):
        assert not _fused_rows.takes(x, None, num_batches)
        assert _fused_rows.takes(usual, usual)
    assert not _fused_rows.takes(usual, None)


def test_the_cpu_has_none_from_its_compiler():
    x = maps()
    with fused(torch.device("cpu"), "compiled") as taken:
        for name in NAMES:
            make(name)(x)
    assert not taken


@pytest.mark.parametrize(("name", "message"), [("IN", "at least 2 pixels"), ("SN", "at least 2 pixels"), ("LN", "1x1")])
def test_maps_that_a_layer_refuses_are_refused_as_ever(name, message, device):
    with fused(device), pytest.raises(NormError, match=message):
        make(name)(maps(4, side=1))


def test_evaluation_is_as_ever(device):
    for name in NAMES:
        layer, x = make(name).eval(), maps(seed=0)
        with fused(device) as taken:
            layer(x)
        assert not taken
