"""What every backbone has to keep, over all registered names."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.models.resnet import conv1x1

from backbone.blocks import BasicBlock, ZeroPaddedShortcut
from backbone.norm import NORMS, BatchContext, batch_context, begin_task, norm_factory
from tests.backbone.rig import FACTORIES, OutputKeepingNorm, Places, awake, convolutions, narrow
from utils.config.registry import BACKBONES, ROOT
from utils.errors import UserError

NAMES = BACKBONES.names()
SMALLEST = {"resnet18": 5, "resnet18_imagenet": 17, "resnet32": 3, "podnet_resnet18": 9, "podnet_resnet32": 3}
GROUPS = {"GN": {"num_groups": 4}, "CN": {"num_groups": 4}}
# Residual branches that start at zero, and sums that are not rectified.
PODNET = ("podnet_resnet18", "podnet_resnet32")


def test_a_network_without_memory_is_made_at_once():
    """PyTorch brings in its compiler, which takes a second, to draw weights that are not there."""
    script = (
        "import sys, torch\n"
        "from backbone.norm import norm_factory\n"
        "from utils.config.registry import BACKBONES\n"
        "with torch.device('meta'):\n"
        "    for name in BACKBONES.names():\n"
        "        BACKBONES.get(name)(norm_factory('BN'), image_size=32)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_block_computes_what_torchvisions_block_computes(stride):
    torch.manual_seed(0)
    ours = BasicBlock(6, 12, stride, FACTORIES["batch"], side=8 // stride)
    projection = nn.Sequential(conv1x1(6, 12, stride), nn.BatchNorm2d(12))
    theirs = TorchvisionBlock(6, 12, stride, projection)
    renamed = {"norm": "bn", "shortcut": "downsample"}
    state = ours.state_dict()
    for name in list(state):
        for old, new in renamed.items():
            if name.startswith(old):
                state[new + name.removeprefix(old)] = state.pop(name)
    theirs.load_state_dict(state)
    x = torch.randn(5, 6, 8, 8, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours(x).square().sum().backward()
    theirs(y).square().sum().backward()
    assert torch.equal(ours(x), theirs(y))
    assert torch.equal(x.grad, y.grad)


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (8, 2), (4, 1)])
def test_shortcut_is_a_projection_exactly_where_the_shape_changes(in_channels, stride):
    block = BasicBlock(in_channels, 8, stride, FACTORIES["batch"], side=4)
    same = in_channels == 8 and stride == 1
    assert len(convolutions(block)) == (2 if same else 3)
    x = torch.randn(2, in_channels, 4 * stride, 4 * stride)
    before = x.clone()
    assert block(x).shape == (2, 8, 4, 4)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("side", "stride"), [(8, 2), (7, 2), (6, 1)])
def test_shortcut_without_parameters_takes_every_other_pixel_and_appends_zeros(side, stride):
    shortcut = ZeroPaddedShortcut(5, stride)
    x = torch.randn(2, 3, side, side)
    shortened = shortcut(x)
    assert torch.equal(shortened[:, :3], x[:, :, ::stride, ::stride])
    assert shortened.shape == (2, 8, -(-side // stride), -(-side // stride))
    assert not shortened[:, 3:].any()
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_size", [17, 32, 33, 64, 84])
def test_every_norm_layer_is_told_the_shape_that_it_meets(name, image_size):
    places = Places()
    network = narrow(name, places, image_size=image_size)
    with torch.no_grad():
        features, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert places.asked
    assert features.shape == (2, network.num_features)
    torch.testing.assert_close(features, maps[-1].flatten(2).mean(2))


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_have_no_bias_and_other_parameters_belong_to_norm_layers(name):
    network = narrow(name, "none")
    assert all(convolution.bias is None for convolution in convolutions(network))
    assert len(list(network.parameters())) == len(convolutions(network))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factory", FACTORIES)
def test_weights_and_random_stream_do_not_depend_on_the_norm_layer(name, factory):
    reference = narrow(name, "batch", seed=3)
    after = torch.get_rng_state()
    network = narrow(name, factory, seed=3)
    assert torch.equal(torch.get_rng_state(), after)
    for ours, theirs in zip(convolutions(network), convolutions(reference), strict=True):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("name", NAMES)
def test_norm_layers_keep_the_initialisation_of_their_factory(name):
    def norm(num_features, spatial_size):
        layer = nn.BatchNorm2d(num_features)
        nn.init.constant_(layer.weight, 0.25)
        return layer

    network = narrow(name, norm)
    zeroed = {id(each.norm2) for each in network.modules() if isinstance(each, BasicBlock)} if name in PODNET else ()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == (0.0 if id(layer) in zeroed else 0.25)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_reach_every_parameter_and_are_finite(name, factory, memory_format):
    network = awake(narrow(name, factory, image_size=33))
    network(torch.randn(4, 3, 33, 33).contiguous(memory_format=memory_format)).square().sum().backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_memory_format_changes_no_value(name, factory):
    """In channels-last, but for stages with more than 8 channels per pixel of their maps."""
    torch.manual_seed(0)
    plain = awake(narrow(name, factory, image_size=33)).double()
    arranged = copy.deepcopy(plain)
    arranged.arrange(torch.channels_last)
    arranged = copy.deepcopy(arranged)
    assert (
        0
        < arranged.num_arranged
        == sum(width <= 8 * side * side for width, side in ((maps.shape[1], maps.shape[2]) for maps in maps_of(plain)))
    )
    images = torch.randn(4, 3, 33, 33, dtype=torch.float64)
    (features, maps), (expected, expected_maps) = (
        network.forward_maps(images.contiguous(memory_format=memory_format))
        for network, memory_format in ((arranged, torch.channels_last), (plain, torch.contiguous_format))
    )
    torch.testing.assert_close(features, expected)
    for number, (own, other) in enumerate(zip(maps, expected_maps, strict=True)):
        torch.testing.assert_close(own, other)
        memory_format = torch.channels_last if number < arranged.num_arranged else torch.contiguous_format
        assert factory == "layer" or own.is_contiguous(memory_format=memory_format)  # PyTorch's knows the latter alone
    features.square().sum().backward()
    expected.square().sum().backward()
    for own, other in zip(arranged.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
        assert own.grad.stride() == own.stride()


def maps_of(network):
    return network.forward_maps(torch.zeros(2, 3, 33, 33, dtype=torch.float64))[1]


class _CopiedMaps(TorchDispatchMode):
    """Shapes of the maps that operations only lay out anew."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name in ("clone", "copy_", "_to_copy", "contiguous") and result.dim() == 4 and result.shape[0] == 6:
            self.shapes.append(tuple(result.shape[1:]))
        return result


@pytest.mark.parametrize("norm", NORMS.names())
def test_maps_are_laid_out_anew_only_between_stages_of_two_formats(norm):
    factory = norm_factory(norm, num_tasks=3, **GROUPS.get(norm, {}))
    network = BACKBONES.get("resnet18")(factory, image_size=16, nf=8)
    begin_task(network, 2)
    network.arrange(torch.channels_last)
    assert network.num_arranged == 3
    images = torch.randn(6, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with _CopiedMaps() as copied:
        with batch_context(network, BatchContext(2, torch.tensor([2, 2, 2, 0, 1, 1]), 3)):
            features = network(images)
        features.square().sum().backward()
    assert copied.shapes == [(32, 4, 4)]


@pytest.mark.parametrize("name", NAMES)
def test_norm_layer_may_keep_its_output_for_the_backward_pass(name):
    network = narrow(name, OutputKeepingNorm)
    network(torch.randn(2, 3, 32, 32)).sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_stages_and_do_not_change_afterwards(name):
    network = awake(narrow(name))
    seen = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    features, maps = network.forward_maps(torch.randn(3, 3, 32, 32))
    assert len(maps) == len(network.stages)
    for given, after_stage in zip(maps, seen, strict=True):
        assert torch.equal(given, after_stage)
        assert (given.min() >= 0) == (name not in PODNET)
    assert features.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_maps_and_features_carry_gradients_to_the_stem(name):
    network = narrow(name)
    features, maps = network.forward_maps(torch.randn(3, 3, 32, 32))
    first = next(network.parameters())
    for each in (features, *maps):
        (gradient,) = torch.autograd.grad(each.sum(), first, retain_graph=True)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_norm_layers_lets_images_depend_on_each_other(name):
    """Which `keeps_rows_apart` says of every backbone here."""
    network = awake(narrow(name, "group").double()).train()
    images = torch.randn(3, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    network(images)[1].square().sum().backward()
    assert images.grad[1].abs().sum() > 0
    assert images.grad[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_stem_is_rectified(name):
    network = narrow(name)
    seen = []
    network.stages[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    x = torch.randn(3, 3, 32, 32)
    network(x)
    convolution = convolutions(network)[0]
    expected = nn.BatchNorm2d(seen[0].shape[1])(convolution(x)).clamp(min=0)
    if name in ("resnet18_imagenet", "podnet_resnet18"):
        expected = nn.functional.max_pool2d(expected, 3, stride=2, padding=1)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_same_with_and_without_maps(name):
    network = narrow(name).eval()
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(network(x), network.forward_maps(x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_equal_and_apart(name):
    network = awake(narrow(name))
    x = torch.randn(3, 3, 32, 32)
    network(x).sum().backward()
    twin = copy.deepcopy(network)
    stored = io.BytesIO()
    torch.save(network.state_dict(), stored)
    stored.seek(0)
    loaded = narrow(name, seed=1)
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    expected = network.eval()(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for other in (twin, loaded):
        assert torch.equal(other.eval()(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_agrees_with_single(name):
    network = awake(narrow(name)).eval()
    x = torch.randn(2, 3, 32, 32)
    single = network(x)
    double = copy.deepcopy(network).double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "smallest"), SMALLEST.items())
def test_smallest_image_works_and_a_smaller_one_is_refused(name, smallest):
    network = narrow(name, image_size=smallest)
    assert network(torch.randn(4, 3, smallest, smallest)).isfinite().all()
    with pytest.raises(UserError, match=rf"--backbone {name} .* at least {smallest} .* --dataset have {smallest - 1};"):
        narrow(name, image_size=smallest - 1)
