"""The kernels of the layers that are no mixtures of samples give what their own operations give."""

import copy
from contextlib import nullcontext

import pytest
import torch

from backbone.norm import NormError, _fused_rows, separate_batches
from tests.backbone.norm.rig import KERNELS, fused, make, maps, same_state

NAMES = ("IN", "GN", "LN", "CN", "SN", "BRN")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2}
LIKE_IN = _fused_rows.Grouped(8, 1e-5)


@pytest.fixture(
    params=[(kind, name) for kind in KERNELS for name in NAMES if (kind, name) != ("compiled", "LN")], ids=str
)
def kernels_and_name(request):
    return request.param


def slow(*values):
    """Triton's interpreter takes a while for every program."""
    return pytest.param(*values, marks=pytest.mark.slow)


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


def check(kernels, layer, x, added, gradient, sizes, times=1):
    """Against the layer's own operations in float64."""
    expected = step(copy.deepcopy(layer).double(), x.double(), added.double(), gradient.double(), sizes)
    with fused(x.device, kernels) as taken:
        found = step(layer, x, added, gradient, sizes)
    assert len(taken) == 2
    for name, value in expected.items():
        is_small = name.endswith(("mean_weight", "var_weight"))  # a difference of large sums
        error = (found[name] - value).norm() / value.norm().clamp(min=0.1 * value.numel() ** 0.5)
        assert error < times * TOLERANCES[x.dtype] * (30 if is_small else 1), f"{name}: {error}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5, 40, 3, 3), (2, 8, 24, 24), slow((3, 24, 17, 17)), slow((17, 4, 2, 2))], ids=str)
def test_layers_do_the_same(kernels_and_name, shape, dtype, layout, device):
    """More channels, pixels and samples than a program takes at a time."""
    kernels, name = kernels_and_name
    if dtype is torch.float64 and kernels == "triton":
        pytest.skip("has no kernels for it")
    numbers = torch.promote_types(dtype, torch.float32)
    layer = make(name, channels=shape[1], side=shape[2], dtype=numbers)
    x, added, gradient = (
        maps(shape[0], *shape[1:3], seed=seed).to(dtype).contiguous(memory_format=layout) for seed in range(3)
    )
    check(kernels, layer, x, added, gradient, None)


@pytest.mark.parametrize(
    ("sizes", "affine"), [((5, 7), True), slow((6, 6), True), slow((3, 4, 5), False), slow((5, 7), False)], ids=str
)
def test_several_batches_are_normalised_one_after_another(kernels_and_name, sizes, affine, device):
    kernels, name = kernels_and_name
    x, added, gradient = (maps(seed=seed) for seed in range(3))
    check(kernels, make(name, affine=affine), x, added, gradient, sizes)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("num_before", [4999, slow(12_000), slow(100_000)])
def test_batch_renormalization_corrects_after_many_batches(num_before, kernels, device):
    layer = make("BRN")
    layer.num_batches_tracked.fill_(num_before)
    layer.running_mean.fill_(0.5)
    x, added, gradient = (maps(seed=seed) for seed in range(3))
    check(kernels, layer, x, added, gradient, (5, 7))


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_channel_without_spread_has_no_gradient_by_its_deviation(kernels, device):
    x, added, gradient = (maps(seed=seed) for seed in range(3))
    x[:, 3] = 0.25
    # Its mean is rounded, and its deviation then hardly above 0.
    check(kernels, make("BRN"), x, added, gradient, None, times=20)


def test_the_same_comes_again_bit_for_bit(kernels_and_name, device):
    kernels, name = kernels_and_name

    def again():
        return step(make(name), *(maps(4, seed=seed) for seed in range(3)))

    with fused(device, kernels):
        assert same_state(again(), again())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LN"])
def test_compiled_kernels_give_the_same_with_any_number_of_threads(name, layout):
    def taken(threads):
        torch.set_num_threads(threads)
        each = (maps(70, 520, 2, seed=seed).contiguous(memory_format=layout) for seed in range(3))
        return step(make(name, channels=520, side=2), *each)

    with fused(torch.device("cpu"), "compiled"):
        assert same_state(taken(1), taken(3))


def test_nan_goes_on_as_through_a_relu(kernels_and_name, device):
    kernels, name = kernels_and_name
    found = []
    for takes in (False, True):
        x, added, gradient = (maps(seed=seed) for seed in range(3))
        added[0, 0, 0, 0] = float("nan")
        with fused(device, kernels) if takes else nullcontext():
            found.append(step(make(name), x, added, gradient))
    for key, own in found[0].items():
        torch.testing.assert_close(found[1][key], own, equal_nan=True, rtol=1e-3, atol=1e-3)


def test_nothing_need_be_added_or_rectified(kernels_and_name, device):
    kernels, name = kernels_and_name
    found = []
    for takes in (False, True):
        layer, x = make(name), maps().requires_grad_()
        with fused(device, kernels) if takes else nullcontext([]) as taken:
            y = layer(x)
            found.append((y, *torch.autograd.grad(y.pow(3).sum(), x)))
        assert bool(taken) == takes
    for own, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (LIKE_IN, torch.zeros(2, 8, 3, 6)[..., ::2]),
        (LIKE_IN, torch.zeros(2, 8, 3, 3, dtype=torch.float64)),
        (LIKE_IN, torch.zeros(129, 8, 1, 1)),
        (_fused_rows.Switchable(1e-5, (1,) * 17, None, None, 0.1), torch.zeros(17, 8, 1, 1)),
        (LIKE_IN, torch.zeros(1, 4097, 1, 1)),
    ],
    ids=("neither layout", "float64", "many samples", "many batches", "many channels"),
)
def test_other_maps_are_left_to_the_layers_own_operations_on_a_gpu(kind, x):
    usual = torch.zeros(2, 8, 3, 3)
    with fused(torch.device("cpu")):
        assert not _fused_rows.takes(kind, x, None)
        assert _fused_rows.takes(LIKE_IN, usual, usual)
    assert not _fused_rows.takes(LIKE_IN, usual, None)


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (LIKE_IN, torch.zeros(2, 8, 3, 6)[..., ::2]),
        (LIKE_IN, torch.zeros(2, 8, 3, 3, dtype=torch.float16)),
        (_fused_rows.Grouped(1, 1e-5, per_position=True), torch.zeros(2, 8, 3, 3)),
    ],
    ids=("neither layout", "float16", "LN"),
)
def test_other_maps_are_left_to_the_layers_own_operations_on_the_cpu(kind, x):
    with fused(torch.device("cpu"), "compiled"):
        assert not _fused_rows.takes(kind, x, None)
        assert _fused_rows.takes(LIKE_IN, torch.zeros(200, 8, 3, 3), None)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("name", "message"), [("IN", "at least 2 pixels"), ("SN", "at least 2 pixels"), ("LN", "1x1")])
def test_maps_that_a_layer_refuses_are_refused_as_ever(name, message, kernels, device):
    with fused(device, kernels), pytest.raises(NormError, match=message):
        make(name)(maps(4, side=1))


def test_batch_renormalization_goes_on_with_nan(device):
    for kernels in KERNELS:
        layer, x = make("BRN"), maps()
        layer.running_std[0] = float("nan")
        with fused(device, kernels):
            assert layer(x)[:, 0].isnan().all()


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("name", "shape"), [("BRN", (0, 8, 3, 3)), ("BRN", (2, 8, 0, 3)), ("CN", (0, 8, 3, 3))], ids=str
)
def test_empty_maps_are_refused_as_ever(name, shape, kernels, device):
    layer = make(name)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with fused(device, kernels), pytest.raises(NormError, match="value per channel"):
        layer(torch.zeros(shape))
    assert same_state(layer.state_dict(), before)


def test_one_sample_maps_that_are_not_square_and_batches_of_one(kernels_and_name, device):
    kernels, name = kernels_and_name
    for sizes, number, width in ((None, 1, 3), ((1, 2), 3, 3), (None, 4, 5)):
        if name == "LN" and width != 3:
            continue
        tables = (maps(number, seed=seed).repeat(1, 1, 1, 2)[..., :width] for seed in range(3))
        x, added, gradient = (each.contiguous() for each in tables)
        check(kernels, make(name), x, added, gradient, sizes, times=4)


def test_parameters_that_do_not_learn_have_no_gradient(kernels_and_name, device):
    kernels, name = kernels_and_name
    layer, x = make(name, affine=True).requires_grad_(False), maps().requires_grad_()
    with fused(device, kernels) as taken:
        y = layer(x)
    y.sum().backward()
    assert taken
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_running_statistics_that_a_backward_pass_needs_are_known_to_have_changed(device):
    for kernels in KERNELS:
        layer, x = make("BRN"), maps().requires_grad_()
        y = layer.eval()(x)
        with fused(device, kernels):
            layer.train()(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("kernels", KERNELS)
def test_parameters_of_another_kind_are_left_to_the_layers_own_operations(kernels, device):
    strided, shiftless = make("GN"), make("GN")
    strided.weight.data = torch.ones(16)[::2]
    shiftless.bias = None
    with fused(device, kernels) as taken:
        strided(maps())
        shiftless(maps())
    assert not taken


def test_evaluation_is_as_ever(kernels_and_name, device):
    kernels, name = kernels_and_name
    with fused(device, kernels) as taken:
        make(name).eval()(maps())
    assert not taken
