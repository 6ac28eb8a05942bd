"""The kernels give what the layers' own operations give."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from backbone.norm import BatchContext, NormError, _fused, batch_context, begin_task, norm_loss, separate_batches
from tests.backbone.norm import rig
from tests.backbone.norm.rig import KERNELS, context, fused, make, maps, same_state, train_step
from utils.config.registry import NORMS

NAMES = ("BN", "TBBN", "AdaB2N")  # mixtures of samples
LAYOUTS = (torch.contiguous_format, torch.channels_last)
TOLERANCES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 5e-3}


@pytest.fixture(params=LAYOUTS, ids=("contiguous", "channels-last"))
def layout(request):
    return request.param


@pytest.fixture(params=KERNELS)
def kernels(request):
    return request.param


def draw(*shape, seed, layout=torch.contiguous_format):
    values = rig.draw(*shape, random=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def reference(x, shares, outputs, weight, bias, eps, added):
    """The formulas of the module, in float64: relu(y + added), and mean and variance of the groups."""
    means, variances = x.mean((2, 3)), x.var((2, 3), correction=0)
    centers = shares @ means
    distances = means - centers[:, None]
    spread = (shares[:, :, None] * (variances + distances.square())).sum(1)
    inverse_stds = (spread + eps).rsqrt()
    y = torch.einsum("ng,gc,nchw->nchw", outputs, inverse_stds, x)
    y = y - torch.einsum("ng,gc->nc", outputs, inverse_stds * centers)[:, :, None, None]
    y = y * weight[:, None, None] + bias[:, None, None]
    return F.relu(y + added), torch.stack((centers, spread))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "num_groups"), [((5, 20, 3, 3), 1), ((3, 34, 17, 17), 2), ((2, 3, 72, 72), 1), ((4, 16, 1, 1), 2)]
)
def test_kernels_are_the_formulas(device, kernels, layout, dtype, shape, num_groups):
    """More channels than a program takes, more pixels than a program takes at a time, and shares below a sum of 1."""
    if dtype is torch.float64 and kernels == "triton":
        pytest.skip("has no kernels for it")
    num_samples, num_channels = shape[:2]
    x, added, gradient = (draw(*shape, seed=seed, layout=layout).add(1).to(dtype) for seed in range(3))
    numbers = torch.promote_types(dtype, torch.float32)
    shares, outputs = (
        draw(num_groups, num_samples, seed=3).to(numbers).softmax(1) * 0.8,
        draw(num_samples, num_groups, seed=4).to(numbers).softmax(1),
    )
    weight, bias, of_statistics = (
        draw(num_channels, seed=5).to(numbers),
        draw(num_channels, seed=6).to(numbers),
        draw(2, num_groups, num_channels, seed=7).to(numbers),
    )
    found = []
    for kind in (torch.float64, None):
        leaves = [each.detach().to(kind or each.dtype).requires_grad_() for each in (x, shares, weight, bias, added)]
        if kind is not None:
            y, statistics = reference(leaves[0], leaves[1], outputs.to(kind), *leaves[2:4], 1e-5, leaves[4])
        else:
            with fused(device, kernels):
                copies = leaves[1].expand(_fused.num_copies(num_channels) + 1, -1, -1)
                mixing = _fused.Mixing(copies, outputs)
                y, statistics, inverse_stds = _fused.normalize(
                    leaves[0], mixing, *leaves[2:4], 1e-5, added=leaves[4], rectified=True
                )
                torch.testing.assert_close(inverse_stds, (statistics[1] + 1e-5).rsqrt(), rtol=1e-6, atol=0)
                assert y.stride() == x.stride()
        with fused(device, kernels):
            gradients = torch.autograd.grad(
                (y, statistics), leaves, (gradient.to(y.dtype), of_statistics.to(statistics.dtype))
            )
        found.append((y, statistics, *gradients))
    for exact, computed in zip(*found, strict=True):
        error = (computed.double() - exact).norm() / exact.norm()
        assert error < TOLERANCES[computed.dtype], error


@pytest.mark.parametrize("name", NORMS.names())
def test_layers_take_kernels_where_they_say(name, kernels, device):
    kind = "cpu" if kernels == "compiled" else "cuda"
    with fused(device, kernels) as taken:
        make(name)(maps())
    assert bool(taken) == (kind in NORMS.get(name).fused_on)


@pytest.mark.parametrize("described", [False, True], ids=("one batch", "described"))
@pytest.mark.parametrize("name", NAMES)
def test_layers_do_the_same(name, layout, described, kernels, device):
    found = []
    for takes in (False, True):
        layer, x = make(name), maps().to(device).contiguous(memory_format=layout).requires_grad_()
        with fused(device, kernels) if takes else nullcontext([]) as taken:
            for _ in range(2):
                y, regularizer, gradients = train_step(layer, x, context() if described else None)
        assert len(taken) == 2 * takes
        found.append(({"y": y, "regularizer": regularizer, "x": x.grad, **gradients}, layer.state_dict()))
    (own, own_state), (ours, our_state) = found
    for key, value in own.items():
        if value is None:
            assert ours[key] is None, key
        else:
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-4, msg=key)
    for key, value in own_state.items():
        torch.testing.assert_close(our_state[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("affine", [True, False])
def test_several_batches_are_normalised_one_after_another(affine, kernels, device):
    x, own = maps().to(device), make("BN", affine=affine)
    ours = copy.deepcopy(own)
    with separate_batches(own, (5, 7)):
        expected = own(x)
    with fused(device, kernels) as taken, separate_batches(ours, (5, 7)):
        torch.testing.assert_close(ours(x), expected)
    assert taken
    for key, value in own.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_comes_again_bit_for_bit(name, kernels, device):
    def step():
        layer, x = make(name), maps().to(device).requires_grad_()
        y, _, gradients = train_step(layer, x, context())
        return {"y": y, "x": x.grad, **{key: each for key, each in gradients.items() if each is not None}}

    with fused(device, kernels):
        assert same_state(step(), step())


@pytest.mark.parametrize(
    ("x", "added"),
    [
        (torch.zeros(2, 8, 3, 6)[..., ::2], None),
        (torch.zeros(2, 8, 3, 3), torch.zeros(2, 8, 3, 3, dtype=torch.bfloat16)),
        (torch.zeros(2, 8, 3, 3), torch.zeros(1, 8, 3, 3)),
        (torch.zeros(1, 8, 1, 1), None),
    ],
    ids=("neither layout", "another type to add", "another shape to add", "one value a channel"),
)
def test_other_maps_are_left_to_the_layers_own_operations(kernels, x, added):
    layer, usual = make("BN"), torch.zeros(2, 8, 3, 3)
    with fused(torch.device("cpu"), kernels):
        assert not _fused.takes(layer, x, added, (len(x),))
        assert _fused.takes(layer, usual, usual, (2,))
    assert not _fused.takes(layer, usual, None, (2,))


@pytest.mark.parametrize(
    ("kernels", "x"),
    [
        ("triton", torch.zeros(2, 8, 3, 3, dtype=torch.float64)),
        ("triton", torch.zeros(129, 8, 1, 1)),
        ("compiled", torch.zeros(2, 8, 3, 3, dtype=torch.float64)),  # the layer has float32
        ("compiled", torch.zeros(2, 8, 3, 3, dtype=torch.float16)),
    ],
    ids=("float64", "too many samples", "another type than the layer's", "float16"),
)
def test_each_kind_of_kernels_leaves_others_too(kernels, x):
    with fused(torch.device("cpu"), kernels):
        assert not _fused.takes(make("BN"), x, None, (len(x),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernels_give_the_same_with_any_number_of_threads(name, layout, dtype):
    def step(threads):
        torch.set_num_threads(threads)
        layer, x = make(name, channels=40), maps(channels=40, side=9).to(dtype).contiguous(memory_format=layout)
        y, _, gradients = train_step(layer, x.requires_grad_(), context())
        return {"y": y, "x": x.grad, **{key: each for key, each in gradients.items() if each is not None}}

    with fused(torch.device("cpu"), "compiled"):
        assert same_state(step(1), step(3))


def test_weights_that_do_not_learn_lose_the_share_of_an_absent_task_too(kernels, device):
    found = []
    for takes in (False, True):
        layer, x = make("AdaB2N"), maps().to(device).requires_grad_()
        layer.task_weight.requires_grad_(False)
        begin_task(layer, 3)
        tasks = torch.tensor([3] * 8 + [0] * 4, device="cpu")  # of tasks 1 and 2 there is nothing
        with fused(device, kernels) if takes else nullcontext(), batch_context(layer, BatchContext(3, tasks, 8)):
            y = layer(x)
        with fused(device, kernels):
            found.append(torch.autograd.grad(y.pow(3).sum(), (x, layer.weight)))
    for own, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_the_regularizer_alone_has_gradients_and_its_graph_is_used_up_once(kernels, device):
    found = []
    for takes in (False, True):
        layer, x, added = make("AdaB2N"), maps().to(device).requires_grad_(), maps(seed=3).to(device).requires_grad_()
        begin_task(layer, 2)
        with fused(device, kernels) if takes else nullcontext():
            with batch_context(layer, context()):
                y = layer(x, added=added)
            leaves = (x, layer.task_weight, added)
            found.append(torch.autograd.grad(norm_loss(layer), leaves, allow_unused=True, retain_graph=True))
            y.sum().backward()
            with batch_context(layer, context()):
                layer(x, added=added).sum().backward()
            assert not norm_loss(layer).requires_grad
    for own, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5) if own is not None else None
    assert found[0][2] is found[1][2] is None


def test_groups_come_into_the_running_statistics_before_a_batch_without(kernels, device):
    found = []
    for takes in (False, True):
        layer = make("TBBN")
        begin_task(layer, 2)
        with fused(device, kernels) if takes else nullcontext([]) as taken, batch_context(layer, context()):
            layer(maps().to(device))
            layer.context.num_current = 12  # all rows
            layer(maps(seed=4).to(device))
        assert len(taken) == 2 * takes
        found.append(layer.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, msg=key)


def test_many_groups_are_left_to_the_layers_own_operations_on_a_gpu(kernels, device):
    found = []
    for takes in (False, True):
        layer, x = make("TBBN"), maps(40).to(device).requires_grad_()
        begin_task(layer, 50)
        with fused(device, kernels) if takes else nullcontext([]) as taken:
            with batch_context(layer, context(task=50, num_current=20, num_memory=20)):
                y = layer(x)
            found.append((y, *torch.autograd.grad(y.pow(3).sum(), (x, layer.weight))))
        assert bool(taken) == (takes and kernels == "compiled")
    for own, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


def test_a_single_value_a_channel_is_refused_as_ever(kernels, device):
    with fused(device, kernels), pytest.raises(NormError, match="1 value per channel"):
        make("BN", side=1)(maps(1, side=1).to(device))


def test_nan_goes_on_as_through_a_relu(kernels, device):
    found = []
    for takes in (False, True):
        layer, x, added = make("BN").to(device), maps().to(device).requires_grad_(), maps(seed=3).to(device)
        added[0, 0, 0, 0] = float("nan")
        added.requires_grad_()
        with fused(device, kernels) if takes else nullcontext():
            y = layer(x, added=added, rectified=True)
            found.append((y, *torch.autograd.grad(y, (x, added, layer.weight), torch.ones_like(y))))
    for own, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, own, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_a_backward_pass_ends_as_its_forward_began(kernels, device):
    found = []
    for waits in (False, True):
        layer, x = make("BN").to(device), maps().to(device).requires_grad_()
        with fused(device, kernels):
            y = layer(x)
            found += [] if waits else torch.autograd.grad(y.square().sum(), x)
        found += torch.autograd.grad(y.square().sum(), x) if waits else []
    assert torch.equal(*found)


def test_a_layer_that_does_something_else_is_not_taken_for_its_base():
    from backbone.norm.bn import BN

    class Doubled(BN):
        def normalize_batch(self, x):
            return 2 * super().normalize_batch(x)

    class Mixed(Doubled):
        """Neither defines it anew."""

    class WithMixin(type("Doubling", (), {"normalize_batch": lambda self, x: 2 * BN.normalize_batch(self, x)}), BN):
        """The mixin does."""

    x = maps()
    with fused(torch.device("cpu")):
        for kind in (Doubled, Mixed, WithMixin):
            torch.testing.assert_close(kind(8)(x), 2 * BN(8)(x))
