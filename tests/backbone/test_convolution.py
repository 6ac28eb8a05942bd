"""Weights that are rounded at once, and gradients of weights that come from a branch: the numbers are the same."""

import contextlib
import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from backbone import blocks, convolution
from backbone.branch import Branch
from backbone.convolution import Convolution, weights_on_branch
from tests.backbone.rig import awake, convolutions, narrow
from utils.config.registry import BACKBONES, ROOT

NAMES = BACKBONES.names()


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_rounded_at_once_are_those_of_autocast(name):
    torch.manual_seed(0)
    network, images = awake(narrow(name, image_size=33)), torch.randn(4, 3, 33, 33)
    network.arrange(torch.channels_last)
    trained = [parameter for parameter in network.parameters() if parameter is not network.stem[0].weight]
    network.stem[0].weight.requires_grad_(False)
    found = []
    for rounded in (contextlib.nullcontext, network.rounded_weights, lambda kind: rounded_twice(network, kind)):
        with torch.autocast("cpu", dtype=torch.bfloat16), rounded(torch.bfloat16):
            features = network(images)
        assert all(layer.rounded is None for layer in convolutions(network))
        found.append((features, *torch.autograd.grad(features.square().sum(), trained)))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_rounded_weights_are_for_those_that_learn_and_can_be_differentiated_twice():
    torch.manual_seed(0)
    network, images = awake(narrow("resnet18", image_size=8)), torch.randn(4, 3, 8, 8, requires_grad=True)
    kept = network.stem[0].weight.requires_grad_(False)
    found = []
    for rounded in (contextlib.nullcontext, network.rounded_weights):
        with torch.autocast("cpu", dtype=torch.bfloat16), rounded(torch.bfloat16):
            loss = network(images).square().sum()
            copied = copy.deepcopy(network)
        weight = network.stages[0][0].conv1.weight
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), images)[0])
    assert all(layer.rounded is None for layer in convolutions(copied))
    assert torch.equal(*found)
    with network.rounded_weights(torch.bfloat16):
        assert network.stem[0].rounded is None
        assert network.stages[0][0].conv1.rounded.dtype is torch.bfloat16
    with torch.no_grad(), network.rounded_weights(torch.bfloat16):
        assert all(layer.rounded is None for layer in convolutions(network))
    assert kept.grad is None


NARROW_ON_TWO_THREADS = """\
import torch
from backbone.norm import norm_factory
from utils.config.registry import BACKBONES
torch.set_num_threads(2)
network = BACKBONES.get("resnet18")(norm_factory("LN", num_tasks=2), image_size=16, nf={width})
network.arrange(torch.channels_last)
layer = network.stages[1][0].shortcut[0]
for rows in (7, 12, 17) * 60:
    images = torch.randn(rows, 3, 16, 16).to(memory_format=torch.channels_last)
    maps = torch.randn(rows, {width}, 16, 16, requires_grad=True)
    (layer(maps) if {alone} else network(images)).square().mean().backward()
"""


@pytest.mark.parametrize("alone", [False, True], ids=["network", "contiguous"])
@pytest.mark.parametrize("width", [2, 8])
def test_narrow_networks_train_on_several_threads(width, alone):
    """Where oneDNN writes into foreign memory, the process dies sooner or later."""
    program = NARROW_ON_TWO_THREADS.format(width=width, alone=alone)
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("channels", [2, 15, 16])
@pytest.mark.parametrize(("size", "stride"), [(16, 2), (15, 2), (9, 3)])
def test_projections_on_several_threads_are_those_on_one(channels, size, stride):
    torch.manual_seed(0)
    layer = blocks.convolution(channels, 2 * channels, 1, stride).double().to(memory_format=torch.channels_last)
    maps = torch.randn(5, channels, size, size, dtype=torch.float64).to(memory_format=torch.channels_last)
    maps.requires_grad_()
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            y = layer(maps)
            found.append((y, *torch.autograd.grad(y.pow(3).sum(), (maps, layer.weight))))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@contextlib.contextmanager
def rounded_twice(network, kind):
    with network.rounded_weights(kind), network.rounded_weights(kind):
        yield


class Recorded(Branch):
    """A branch whose stream is that of all others; it knows what happened on it."""

    made: list["Recorded"]

    def __init__(self, device, name):
        self.is_taken, self.is_open = True, False
        self.said, self.read = [], []
        if name == "weights":
            Recorded.made.append(self)

    def fork(self, *read):
        self.read += [each.detach() for each in read]
        self.is_open = True
        self.said.append("fork")

    def on(self):
        self.said.append("on")
        return contextlib.nullcontext()

    def join(self):
        if self.is_open:
            self.is_open = False
            self.said.append("join")
            self.joined()
            self.read.clear()

    def joined(self):
        pass


@pytest.fixture
def captured(monkeypatch):
    """As while a step is captured."""
    Recorded.made = []

    @contextlib.contextmanager
    def make():
        with monkeypatch.context() as patch:
            for module in (convolution, blocks):
                patch.setattr(module, "Branch", Recorded)
            yield

    return make


def gradients(network, images, dtype, num_forwards=1):
    """A loss of the features, and its gradients, in float32 or as with `--precision bf16`."""
    is_half, trained = dtype is torch.bfloat16, [each for each in network.parameters() if each.requires_grad]
    rounded = network.rounded_weights(dtype) if is_half else contextlib.nullcontext()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=is_half), rounded:
        loss = sum(network(images + number).float().square().sum() for number in range(num_forwards))
    return [loss.detach(), *torch.autograd.grad(loss, trained)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_weights_on_a_branch_are_those_without(captured, name, dtype):
    torch.manual_seed(0)
    network, images = awake(narrow(name, image_size=33)), torch.randn(4, 3, 33, 33)
    network.arrange(torch.channels_last)
    plain = gradients(network, images, dtype)
    with captured():
        found = gradients(network, images, dtype)
    assert all(map(torch.equal, plain, found))
    (branch,) = Recorded.made
    assert branch.said == ["fork", "on"] * len(convolutions(network)) + ["join"]
    assert all(layer.branch is None for layer in convolutions(network))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_of_several_forwards_has_its_branch_and_joins_it(captured, dtype):
    torch.manual_seed(0)
    network, images = awake(narrow("resnet18", image_size=8)), torch.randn(4, 3, 8, 8)
    plain = gradients(network, images, dtype, num_forwards=2)
    with captured():
        found = gradients(network, images, dtype, num_forwards=2)
    assert all(map(torch.equal, plain, found))
    assert [branch.said[-1] for branch in Recorded.made] == ["join", "join"]


def test_only_weights_that_learn_have_gradients_on_a_branch(captured):
    network, images = narrow("resnet18", image_size=8), torch.randn(4, 3, 8, 8)
    with captured():
        with torch.no_grad():
            network(images)
        assert not any(branch.said for branch in Recorded.made)
        network.stem.requires_grad_(False)
        network.stages[0][0].conv1.weight.requires_grad_(False)
        network(images).sum().backward()
        assert Recorded.made[-1].said.count("on") == len(convolutions(network)) - 2
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        Recorded.made.clear()
        network(images.requires_grad_()).sum().backward()
        assert not Recorded.made


def test_rounded_weights_are_there_until_the_branch_is_joined(captured, monkeypatch):
    """Gradients of maps are on the shortcuts' branch, too, and nothing but a layer of the graph keeps its weight."""
    network, images = narrow("resnet18", image_size=8), torch.randn(4, 3, 8, 8)
    found = []
    with captured():
        with torch.autocast("cpu", dtype=torch.bfloat16), network.rounded_weights(torch.bfloat16):
            loss = network(images).float().sum()
            weights = [StorageWeakRef(layer.rounded.untyped_storage()) for layer in convolutions(network)]
        monkeypatch.setattr(Recorded, "joined", lambda self: found.extend(each.expired() for each in weights))
        loss.backward()
    assert found == [False] * len(weights)
    assert all(each.expired() for each in weights)


def test_a_pass_that_ends_at_maps_joins_its_branch(captured):
    network, images = narrow("resnet18", image_size=8), torch.randn(4, 3, 8, 8)
    with captured():
        features, maps = network.forward_maps(images)
        torch.autograd.grad(features.sum(), maps[0])
    (branch,) = Recorded.made
    assert branch.said[-1] == "join"
    assert branch.said.count("join") == 1


def test_a_layer_that_is_called_again_in_a_forward_has_one_gradient_on_the_branch(captured):
    torch.manual_seed(0)
    layer, x = Convolution(3, 3, 3, padding=1, bias=False), torch.randn(2, 3, 8, 8)

    def gradient():
        with weights_on_branch([layer]):
            return torch.autograd.grad(layer(layer(x)).square().sum(), layer.weight)[0]

    plain = gradient()
    with captured():
        assert torch.equal(gradient(), plain)
    assert Recorded.made[0].said == ["fork", "on", "join"]


@pytest.mark.parametrize(
    "options",
    [{"padding": 1, "padding_mode": "circular"}, {"padding": "same"}, {"padding": "valid"}, {"bias": True}],
    ids=str,
)
def test_other_kinds_of_convolutions_are_what_they_are(captured, options):
    layer, x = Convolution(3, 3, 3, **({"bias": False} | options)), torch.randn(2, 3, 8, 8)
    with captured(), weights_on_branch([layer]):
        assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))
    assert not Recorded.made[0].said


def test_a_weight_that_autocast_is_to_round_is_left_to_it(captured):
    layer, x = Convolution(3, 3, 3, bias=False), torch.randn(2, 3, 8, 8)
    with captured(), torch.autocast("cpu", dtype=torch.bfloat16), weights_on_branch([layer]):
        layer(x).float().sum().backward()
    assert not Recorded.made[0].said


def test_a_network_without_such_convolutions_has_no_branch(captured):
    with captured(), weights_on_branch([]):
        pass
    assert not Recorded.made


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_gives_the_gradients_of_the_pass_as_it_is(monkeypatch, dtype):
    """At a width at which kernels take long enough to meet."""
    torch.manual_seed(0)
    network = awake(narrow("resnet18", nf=64)).cuda()
    network.arrange(torch.channels_last)
    images = torch.randn(20, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain = gradients(network, images, dtype)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients(network, images, dtype)
    for _ in range(5):
        graph.replay()
        assert all(map(torch.equal, plain, found))
