"""Batches that share a forward, each a batch of its own to the layers."""

import copy

import pytest
import torch

import backbone.norm._rows as rows
import backbone.norm.brn as brn
from backbone.norm import batch_context, begin_task, norm_factory, norm_loss, separate_batches
from tests.backbone.norm.rig import GROUPED, NAMES, context, make, maps, state_of
from utils.config.registry import BACKBONES

SIZES = [(7, 5), (6, 6), (4, 4, 4)]


def network(name):
    norm = norm_factory(name, num_tasks=4, **GROUPED.get(name, {}))
    torch.manual_seed(3)
    return BACKBONES.get("resnet18")(norm, image_size=17, nf=4).double()


def gradients(layer, x, forward):
    """Output, gradients of the input and the parameters, and the state, after one training step."""
    x = x.clone().requires_grad_()
    y = forward(layer, x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    ((weights * y.square()).sum() + norm_loss(layer)).backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **grads}, state_of(layer)


def together(sizes):
    def forward(layer, x):
        with separate_batches(layer, sizes):
            return layer(x)

    return forward


def one_by_one(sizes):
    return lambda layer, x: torch.cat([layer(batch) for batch in x.split(sizes)])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_batches_are_normalised_as_one_after_another(name, affine, sizes, memory_format):
    layers = [make(name, dtype=torch.float64, affine=affine) for _ in range(2)]
    x = maps(dtype=torch.float64).contiguous(memory_format=memory_format)
    if name == "BRN":  # where its limits begin to grow
        for layer in layers:
            layer.num_batches_tracked.fill_(5000)
    found = [gradients(layer, x, way(sizes)) for layer, way in zip(layers, (together, one_by_one), strict=True)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_trained_as_by_one_batch_after_another(name):
    images = torch.randn(9, 3, 17, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mine, expected = (gradients(network(name), images, way((5, 4))) for way in (together, one_by_one))
    torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("name", NAMES)
def test_batches_mean_nothing_in_evaluation(name):
    layer, x = make(name).eval(), maps()
    before = state_of(layer)
    with separate_batches(layer, (7, 5)):
        y = layer(x)
    assert torch.equal(y, layer(x))
    torch.testing.assert_close(state_of(layer), before)


@pytest.mark.parametrize("name", ["BN", "SN", "BRN", "CN"])
def test_batches_of_other_sizes_are_refused_and_forgotten(name):
    layer = make(name)
    with separate_batches(layer, (7, 4)):
        with pytest.raises(ValueError, match=r"batches of \[7, 4\] samples were announced, not 12 samples"):
            layer(maps())
        copied = copy.deepcopy(layer)
    copied(maps())
    layer(maps())


@pytest.mark.parametrize("sizes", [(12, 0), ()])
def test_batches_without_samples_are_refused(sizes):
    with pytest.raises(ValueError, match="every batch has at least 1 sample"), separate_batches(make("SN"), sizes):
        pass


def test_batches_announced_inside_others_take_their_place_until_they_end():
    nested, apart = (make("BN") for _ in range(2))
    with separate_batches(nested, (6, 6)):
        with separate_batches(nested, (4, 8)):
            first = nested(maps())
        second = nested(maps())
    torch.testing.assert_close([first, second], [together(sizes)(apart, maps()) for sizes in ((4, 8), (6, 6))])


@pytest.mark.parametrize(("name", "changed"), [("SN", "normalize"), ("BRN", "normalize"), ("BRN", "normalize_batch")])
def test_a_layer_derived_from_another_does_with_several_batches_what_it_does_with_one(name, changed):
    layer = make(name)
    base = type(layer)
    doubled = {changed: lambda self, x: getattr(base, changed)(self, 2 * x)}
    nested, apart = (copy.deepcopy(layer) for _ in range(2))
    nested.__class__ = apart.__class__ = type("Doubled", (base,), doubled)
    torch.testing.assert_close(together((6, 6))(nested, maps()), one_by_one((6, 6))(apart, maps()))
    torch.testing.assert_close(nested.state_dict(), apart.state_dict())


@pytest.mark.parametrize("name", ["SN", "BN"])
def test_a_batch_of_too_few_values_is_refused_beside_a_larger_one(name):
    layer = make(name)
    with separate_batches(layer, (11, 1)), pytest.raises(ValueError, match=r"pixels|1 value per channel"):
        layer(maps(side=1))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_host_makes_lies_there_whatever_the_default_device_is(name):
    """From where it is sent to a GPU."""
    layer, x, told = make(name), maps(), context()
    begin_task(layer, 2)
    for made in (brn._limits, brn._numbers, brn._constants, rows._signs, rows.zero_and_one, rows.inverse_powers):
        made.cache_clear()
    with torch.device("meta"):
        with batch_context(layer, told):
            described = layer(x)
        with separate_batches(layer, (6, 6)):
            separate = layer(x)
    assert described.device == separate.device == x.device
