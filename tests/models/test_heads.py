import copy
import io
import math
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.heads import HEADS, Network
from tests.golden import cases
from tests.models.rig import assert_matches, leaf

COSINE = cases("losses/lucir.npz", "cosine_head_")
PROXY = cases("losses/podnet.npz", "classifier_")
PROXY = {name: case for name, case in PROXY.items() if case["params"]["merging"] == "softmax"}
SHARED = {"growing": [], "cosine": ["sigma"], "proxy": ["eta"]}
GROWN = [name for name, head in HEADS.items() if head.grows]


def grown(name, *sizes, num_features=8, seed=0, **options):
    torch.manual_seed(seed)
    head = HEADS[name](num_features, **options)
    for size in sizes:
        head.grow(size)
    return head


def rows_of_tasks(head, rows):
    return torch.tensor(rows).split([len(part.weight) for part in head.parts])


def place_rows(head, rows):
    """Leaves of the recorded rows, shared out among the tasks of a head in their order."""
    with torch.no_grad():
        for part, values in zip(head.parts, rows_of_tasks(head, rows), strict=True):
            part.weight.copy_(values)


def row_gradients(head):
    return torch.cat([part.weight.grad for part in head.parts])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", COSINE)
@pytest.mark.parametrize("first", [None, 1, 3])
def test_cosine_head_is_the_published_one(name, first):
    """The recorded layer has one task; rows shared out among two must not change anything."""
    case = COSINE[name]
    total = len(case["in_weight"])
    head = grown("cosine", *((total,) if first is None else (first, total - first))).double()
    place_rows(head, case["in_weight"])
    with torch.no_grad():
        head.sigma.copy_(torch.tensor(case["in_sigma"]))
    x = leaf(case["in_x"])
    scores = head(x)
    assert_matches(scores, case["out_scaled"])
    assert_matches(head.cosines(x), case["out_cosine"])
    (scores * torch.tensor(case["in_upstream"])).sum().backward()
    assert_matches(x.grad, case["grad_x"])
    assert_matches(row_gradients(head), case["grad_weight"])
    assert_matches(head.sigma.grad, case["grad_sigma"])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", [name for name, case in PROXY.items() if case["params"]["scaling"] == 1])
def test_proxy_head_is_the_published_one(name):
    case = PROXY[name]
    head = grown("proxy", *case["params"]["classes_per_group"], num_proxies=case["params"]["proxies"]).double()
    place_rows(head, case["in_weights"])
    x = leaf(case["in_x"])
    scores = head(x)
    assert_matches(scores, case["out_logits"])
    (scores * torch.tensor(case["in_upstream"])).sum().backward()
    assert_matches(x.grad, case["grad_x"])
    assert_matches(row_gradients(head), case["grad_weights"])
    assert head.eta.grad is None


def test_growing_head_is_one_linear_layer_per_task():
    head = grown("growing", 3, 2, 4)
    torch.manual_seed(0)
    layers = [nn.Linear(8, size) for size in (3, 2, 4)]
    x = torch.randn(5, 8)
    torch.testing.assert_close(head(x), torch.cat([layer(x) for layer in layers], 1))
    assert [name for name, _ in head.named_parameters()][:2] == ["parts.0.weight", "parts.0.bias"]


def test_linear_head_is_pytorchs_layer_and_does_not_grow():
    torch.manual_seed(0)
    head = HEADS["linear"](8, 5)
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    before = torch.get_rng_state()
    head.grow(2)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(4, 8)
    assert torch.equal(head(x), layer(x))
    assert head.num_classes == 5
    assert list(head.state_dict()) == ["weight", "bias"]
    assert [id(p) for p in head.newest_parameters()] == [id(head.weight), id(head.bias)]
    assert head.old_parameters() == []


@pytest.mark.parametrize("name", GROWN)
def test_growing_keeps_the_old_outputs_and_their_parameters(name):
    head = grown(name, 3)
    x = torch.randn(4, 8)
    before, parameters = head(x), list(head.parameters())
    head.grow(2)
    assert (head.num_classes, head.sizes) == (5, [3, 2])
    after = head(x)
    assert after.shape == (4, 5)
    torch.testing.assert_close(after[:, :3], before)
    kept = {id(parameter) for parameter in head.parameters()}
    assert all(id(parameter) in kept for parameter in parameters)


@pytest.mark.parametrize("name", GROWN)
def test_newest_and_old_parameters_are_those_of_the_outputs(name):
    head = grown(name, 3, 2, 4)
    head(torch.randn(4, 8))[:, 5:].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.newest_parameters())
    assert all(parameter.grad.abs().sum() == 0 for parameter in head.old_parameters())
    listed = [id(parameter) for parameter in head.newest_parameters() + head.old_parameters()]
    shared = [parameter for parameter in head.parameters() if id(parameter) not in listed]
    assert len(set(listed)) == len(listed)
    assert [id(parameter) for parameter in shared] == [id(head.get_parameter(scale)) for scale in SHARED[name]]
    assert head.old_parameters()[0] is head.parts[0].weight


@pytest.mark.parametrize("name", GROWN)
def test_first_task_has_no_old_parameters(name):
    assert grown(name).newest_parameters() == []
    assert grown(name, 2).old_parameters() == []
    assert len(grown(name, 2).newest_parameters()) >= 1


@pytest.mark.parametrize("name", GROWN)
def test_head_without_outputs_says_so(name):
    head = grown(name)
    assert head.num_classes == 0
    with pytest.raises(RuntimeError, match="call grow"):
        head(torch.randn(2, 8))
    with pytest.raises(ValueError, match="at least 1 class"):
        head.grow(0)
    assert len(head.parts) == 0


@pytest.mark.parametrize("name", GROWN)
@pytest.mark.parametrize("sizes", [(), (3,)])
def test_new_outputs_have_the_heads_type(name, sizes):
    """The draws are those of single precision, so that they depend on the seed alone."""
    head = grown(name, *sizes).double()
    torch.manual_seed(4)
    head.grow(2)
    assert all(parameter.dtype == torch.float64 for parameter in head.parameters())
    assert head(torch.randn(2, 8, dtype=torch.float64)).dtype == torch.float64
    twin = grown(name, *sizes)
    torch.manual_seed(4)
    twin.grow(2)
    assert torch.equal(head.parts[-1].weight, twin.parts[-1].weight.double())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", GROWN)
@pytest.mark.parametrize("sizes", [(), (3,)])
def test_new_outputs_are_drawn_alike_on_a_gpu(name, sizes):
    head, twin = grown(name, *sizes).cuda(), grown(name, *sizes)
    for each in (head, twin):
        torch.manual_seed(4)
        each.grow(2)
    assert all(parameter.is_cuda for parameter in head.parameters())
    assert torch.equal(head.parts[-1].weight.cpu(), twin.parts[-1].weight)
    x = torch.randn(4, 8)
    torch.testing.assert_close(head(x.cuda()).cpu(), twin(x))


@pytest.mark.parametrize("name", GROWN)
def test_new_outputs_follow_the_head_to_another_device(name):
    head = grown(name).to("meta")
    head.grow(2)
    assert all(parameter.is_meta for parameter in head.parameters())


@pytest.mark.parametrize(("name", "scale"), [("cosine", "sigma"), ("proxy", "eta")])
def test_copy_has_a_scale_of_its_own(name, scale):
    head = grown(name, 3)
    teacher = copy.deepcopy(head)
    with torch.no_grad():
        getattr(head, scale).fill_(5.0)
    head.grow(2)
    assert getattr(teacher, scale).item() == 1
    assert (teacher.num_classes, head.num_classes) == (3, 5)
    x = torch.randn(4, 8)
    assert teacher(x).shape == (4, 3)


@pytest.mark.parametrize("name", GROWN)
def test_state_of_a_grown_head_loads_into_one_grown_alike(name):
    head, stored = grown(name, 3, 2), io.BytesIO()
    torch.save(head.state_dict(), stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    other = grown(name, 3, 2, seed=1)
    other.load_state_dict(state)
    x = torch.randn(4, 8)
    assert torch.equal(other(x), head(x))
    with pytest.raises(RuntimeError, match=r"parts\.1"):
        grown(name, 3).load_state_dict(state)


def test_initial_class_vectors_are_uniform_within_the_published_bound():
    rows = grown("cosine", 50, num_features=400).weight.detach()
    assert 0.99 / 20 < rows.abs().max() <= 1 / 20
    assert rows.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)


def test_initial_proxies_are_normal_of_unit_expected_length():
    head = grown("proxy", 5, num_features=400)
    assert head.weight.shape == (50, 400)
    assert head.weight.std().item() == pytest.approx(1 / 20, rel=0.03)
    assert head.weight.abs().max() > 3 / 20


def test_imprinted_proxies_are_taken_as_they_are():
    head = grown("proxy", 2, num_proxies=3).double()
    centres = torch.randn(6, 8)
    head.grow(2, centres=centres)
    assert torch.equal(head.parts[1].weight, centres.double())
    centres.zero_()
    assert head.newest_parameters()[0].abs().sum() > 0
    assert head.newest_parameters()[0].requires_grad
    with pytest.raises(ValueError, match=r"\[6, 8\], not \[5, 8\]"):
        head.grow(2, centres=torch.randn(5, 8))
    assert head.num_classes == 4


def test_proxies_of_a_class_lie_together():
    """A feature that points along all proxies of class 1 has distance 0 from them."""
    head = grown("proxy", 3, num_features=4, num_proxies=2)
    with torch.no_grad():
        head.parts[0].weight.copy_(torch.eye(4)[[0, 0, 1, 1, 2, 2]])
    torch.testing.assert_close(head(torch.tensor([[0.0, 7.0, 0.0, 0.0]])), torch.tensor([[-2.0, 0.0, -2.0]]))


class Backbone(nn.Module):
    num_features = 8

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.forward_maps(x)[0]

    def forward_maps(self, x):
        maps = self.convolution(x)
        return maps.mean((2, 3)), [maps]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("half", [False, True])
def test_outputs_are_those_of_one_forward_in_single_precision(name, half):
    torch.manual_seed(0)
    head = HEADS[name](8) if HEADS[name].grows else HEADS[name](8, 5)
    head.grow(5)
    network = Network(Backbone(), head, half=half)
    images = torch.randn(4, 3, 6, 6)
    outputs = network.outputs(images, maps=True)
    assert torch.equal(outputs.scores, network(images))
    assert outputs.scores.shape == (4, 5)
    for values in (outputs.scores, outputs.features, *outputs.maps):
        assert values.dtype == torch.float32
        assert values.requires_grad
    (maps,) = outputs.maps
    torch.testing.assert_close(outputs.features, maps.mean((2, 3)), rtol=2e-2, atol=2e-2)


class NothingRead(TorchDispatchMode):
    """Fails where the host needs a value of a tensor, or a shape that depends on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2"), (
            f"{name}, as by item"
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("half", [False, True])
def test_outputs_wait_for_no_value_on_the_device(name, half):
    head = HEADS[name](8) if HEADS[name].grows else HEADS[name](8, 10)
    for _ in range(2):
        head.grow(5)
    network = Network(Backbone(), head, half=half)
    with pytest.raises(AssertionError, match="item"), NothingRead():
        torch.ones(1).item()
    with NothingRead():
        outputs = network.outputs(torch.randn(4, 3, 6, 6), maps=True)
        outputs.scores.square().sum().backward()


@pytest.mark.parametrize("half", [False, True])
def test_maps_that_nobody_asks_for_are_not_kept(half):
    torch.manual_seed(0)
    network = Network(Backbone(), grown("growing", 5), half=half)
    images = torch.randn(4, 3, 6, 6)
    kept = []
    network.backbone.convolution.register_forward_hook(lambda _, inputs, maps: kept.append(weakref.ref(maps)))
    with torch.no_grad():
        without, asked = network.outputs(images), network.outputs(images, maps=True)
        assert [each() is not None for each in kept] == [False, not half]
    assert without.maps == []
    assert len(asked.maps) == 1
    assert torch.equal(without.scores, asked.scores)
    assert torch.equal(without.features, asked.features)


class Rounded(TorchDispatchMode):
    """Counts the tensors that are rounded to bfloat16, by shape."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "_to_copy" and result.dtype == torch.bfloat16:
            self.shapes[tuple(result.shape)] += 1
        return result


def test_weights_are_rounded_once_for_the_forwards_of_a_step():
    network = Network(Backbone(), grown("growing", 5), half=True)
    weight = tuple(network.backbone.convolution.weight.shape)
    images = [torch.randn(4, 3, 6, 6) for _ in range(3)]
    with Rounded() as apart:
        expected = [network(each) for each in images]
    with Rounded() as together, network.autocast():
        found = [network(each) for each in images]
    assert (apart.shapes[weight], together.shapes[weight]) == (3, 1)
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        network.backbone.convolution.weight.zero_()
        network.backbone.convolution.bias.zero_()
    assert torch.equal(network.outputs(images[0]).features, torch.zeros(4, 8))  # nothing is kept for a later step


@pytest.mark.parametrize("name", ["cosine", "proxy"])
def test_half_precision_spares_the_cosines(name):
    torch.manual_seed(0)
    head = grown(name, 5)
    network = Network(Backbone(), head, half=True)
    outputs = network.outputs(torch.randn(4, 3, 6, 6))
    assert torch.equal(outputs.scores, head(outputs.features))
