import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from backbone.norm import (
    BatchContext,
    NormError,
    batch_context,
    begin_task,
    convert_norms,
    norm_loss,
    separate_batches,
)
from tests.backbone.norm.rig import NAMES
from utils.config.registry import NORMS


class Drawing(nn.Module):
    """Draws random numbers even in evaluation."""

    def forward(self, x):
        return x + 0 * torch.randn_like(x)


def small(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), *layers)


@pytest.mark.parametrize("name", NAMES)
def test_resnet18_of_torchvision(name):
    torch.manual_seed(0)
    network = resnet18(num_classes=4).train()
    others = {key: value.clone() for key, value in network.named_parameters() if value.dim() > 1 or "fc" in key}
    stream = torch.get_rng_state()
    assert convert_norms(network, name, input_size=64, num_tasks=3) is network
    assert torch.equal(torch.get_rng_state(), stream)
    remaining = dict(network.named_parameters())
    assert all(torch.equal(remaining[key], value) for key, value in others.items())
    layers = [module for module in network.modules() if isinstance(module, NORMS.get(name))]
    assert len(layers) == 20
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert all(module.training for module in network.modules())
    assert [layer.spatial_size for layer in layers[:2]] == [32, 16]


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_converted_network_trains(name):
    torch.manual_seed(0)
    network = convert_norms(resnet18(num_classes=4), name, num_tasks=3)  # its ReLUs work in place
    begin_task(network, 2)
    described = BatchContext(2, torch.tensor([2, 2, 2, 2, 0, 1]), 4)
    with batch_context(network, described):
        scores = network(torch.randn(6, 3, 64, 64))
    (scores.square().sum() + norm_loss(network)).backward()
    unused = ["task_weight"] if name == "TBBN" else []
    for key, parameter in network.named_parameters():
        assert key in unused or torch.isfinite(parameter.grad).all(), key
    copy.deepcopy(network)


@pytest.mark.parametrize("name", NAMES)
def test_separate_batches_are_so_to_every_layer_and_none_starts_with_what_another_had(name):
    """BN is no exception: layers are compared with it."""
    torch.manual_seed(0)
    network, images = small(), torch.randn(8, 3, 8, 8)
    network[1].running_mean.fill_(3)
    groups = {"num_groups": 4} if name in ("GN", "CN") else {}
    convert_norms(network, name, input_size=8, fresh=True, num_tasks=3, **groups).train()
    assert getattr(network[1], "running_mean", torch.zeros(1)).eq(0).all()
    with separate_batches(network, [3, 5]):
        found = network(images)
    torch.testing.assert_close(found, torch.cat([network(images[:3]), network(images[3:])]))


def test_batches_of_other_sizes_than_were_announced_are_told():
    network = convert_norms(small(), "BN").train()
    with separate_batches(network, [3, 3]), pytest.raises(ValueError, match=r"\[3, 3\] samples were announced, not 8"):
        network(torch.randn(8, 3, 8, 8))


def test_layers_that_know_of_no_batches_are_told():
    network, images = small(), torch.randn(8, 3, 8, 8)
    told = r"1 is a BatchNorm2d, which knows of no batches: convert_norms\(network, 'BN'\)"
    with pytest.raises(ValueError, match=told), separate_batches(network, [4, 4]):
        network(images)
    network[1].eval()  # it mixes none
    with separate_batches(network, [4, 4]):
        network(images)


def test_no_batch_norm_is_an_error():
    with pytest.raises(NormError, match="TBBN reached no layer: Sequential has no BatchNorm2d"):
        convert_norms(nn.Sequential(nn.Conv2d(3, 8, 3)), "TBBN")
    with pytest.raises(NormError, match="BN reached no layer"):
        convert_norms(nn.Sequential(nn.Conv2d(3, 8, 3)), "BN")


def test_sizes_are_found_without_a_trace():
    torch.manual_seed(0)
    network = small(Drawing(), nn.Dropout(), nn.MaxPool2d(2), nn.BatchNorm2d(8)).train()
    network[3].eval()
    network[1].weight.data.fill_(2)
    before = copy.deepcopy(network.state_dict())
    layers = [network[1], network[5]]
    stream = torch.get_rng_state()
    converted = convert_norms(network, "LN", input_size=(3, 10, 10))
    assert torch.equal(torch.get_rng_state(), stream)
    assert [converted[1].spatial_size, converted[5].spatial_size] == [10, 5]
    assert [module.training for module in converted] == [True, True, True, False, True, True]
    for layer, key in zip(layers, ("1", "5"), strict=True):
        assert not layer._forward_pre_hooks
        assert all(torch.equal(value, before[f"{key}.{name}"]) for name, value in layer.state_dict().items())


def test_ln_needs_the_size_and_square_maps():
    with pytest.raises(NormError, match=r"LN .* give input_size"):
        convert_norms(small(), "LN")
    with pytest.raises(NormError, match="LN needs square maps"):
        convert_norms(small(), "LN", input_size=(3, 8, 6))
    convert_norms(small(), "GN", input_size=(3, 8, 6), num_groups=4)


@pytest.mark.filterwarnings("ignore:LN does not take over")
@pytest.mark.parametrize("track", [True, False])
def test_size_of_maps_in_a_network_without_parameters(track):
    network = nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=track))
    assert convert_norms(network, "LN", input_size=6)[0].spatial_size == 6


def test_failed_conversion_changes_nothing():
    network = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(6))
    layers = list(network)
    with pytest.raises(NormError, match="6 channels"):
        convert_norms(network, "GN", num_groups=4)
    assert list(network) == layers


def test_new_layers_have_type_and_mode_of_the_old():
    network = small().double()
    network[1].eval()
    layer = convert_norms(network, "AdaB2N", num_tasks=2)[1]
    assert layer.weight.dtype == layer.running_mean.dtype == torch.float64
    assert not layer.training
    plain = nn.Sequential(nn.BatchNorm2d(4, affine=False, track_running_stats=False))
    with pytest.warns(match="track_running_stats"):
        assert isinstance(convert_norms(plain, "TBBN")[0], NORMS.get("TBBN"))


def test_shared_layer_stays_shared():
    layer = nn.BatchNorm2d(8)
    network = nn.Sequential(layer, nn.ReLU(), layer, nn.Sequential(layer))
    convert_norms(network, "BRN")
    assert network[0] is network[2] is network[3][0]
    assert isinstance(network[0], NORMS.get("BRN"))


def trained(**options):
    """Conv, BN with statistics and parameters that are not at their start, ReLU."""
    torch.manual_seed(0)
    network = small(nn.ReLU())
    network[1] = layer = nn.BatchNorm2d(8, **options)
    for _ in range(3):
        network(2 * torch.randn(16, 3, 6, 6) + 1)
    if layer.affine:
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.normal_(layer.bias)
    return network.eval()


KEEPING = {"BN": {"momentum": 0.3}, "TBBN": {}, "AdaB2N": {"num_tasks": 3}, "BRN": {}}
IMAGES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", KEEPING)
def test_trained_network_evaluates_as_before(name, affine):
    network = trained(eps=1e-2, affine=affine)
    expected = network(IMAGES)
    layer = convert_norms(network, name, **KEEPING[name])[1]
    torch.testing.assert_close(network(IMAGES), expected)
    assert (layer.weight is not None) == affine
    assert layer.eps == (1e-3 if name == "BRN" else 1e-2)


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N", "BRN"])
def test_trained_network_trains_on_as_before(name):
    """Without a context, and BRN in its first steps, these layers are batch normalization."""
    network = trained().train()
    expected = copy.deepcopy(network)(IMAGES)
    torch.testing.assert_close(convert_norms(network, name, num_tasks=3)(IMAGES), expected, rtol=1e-3, atol=1e-2)


def test_arguments_are_taken_over_unless_given():
    layer = convert_norms(trained(eps=1e-2, momentum=0.3), "TBBN", eps=1e-4)[1]
    assert (layer.eps, layer.momentum, int(layer.num_batches_tracked)) == (1e-4, 0.3, 3)


@pytest.mark.parametrize(("kappa", "count"), [(0.0, 3), (0.4, 0)])
def test_step_size_begins_anew_but_the_plain_average_goes_on(kappa, count):
    layer = convert_norms(trained(), "AdaB2N", num_tasks=3, kappa=kappa)[1]
    assert int(layer.num_batches_tracked) == count


def test_parameters_stay_the_same_objects():
    network = trained()
    weight, bias = network[1].weight, network[1].bias.requires_grad_(False)
    layer = convert_norms(network, "TBBN")[1]
    assert layer.weight is weight
    assert layer.bias is bias
    assert not layer.bias.requires_grad


def test_layer_norm_has_the_scale_of_a_channel_at_every_position():
    network = trained()
    weight = network[1].weight.detach()
    with pytest.warns(match="LN does not take over"):
        layer = convert_norms(network, "LN", input_size=6)[1]
    assert torch.equal(layer.weight.detach(), weight.view(8, 1, 1).expand(8, 6, 6))


@pytest.mark.parametrize("name", ["IN", "GN", "CN", "SN", "LN"])
def test_zero_gammas_stay_zero(name):
    network = small()
    nn.init.zeros_(network[1].weight)
    options = {"num_groups": 4} if name in ("GN", "CN") else {}
    assert not convert_norms(network, name, input_size=6, **options)[1].weight.any()


@pytest.mark.parametrize("name", ["LN", "IN", "GN", "SN", "CN"])
def test_what_is_lost_is_said_once(name):
    network = nn.Sequential(trained(), *[trained()[1:] for _ in range(2)])
    with pytest.warns() as warned:
        convert_norms(network, name, input_size=6, **({"num_groups": 4} if name in ("GN", "CN") else {}))
    assert [str(each.message) for each in warned] == [
        f"{name} does not take over evaluation by the running statistics (0.1, 1.1, …)"
    ]


@pytest.mark.parametrize(
    ("options", "wanted", "message"),
    [
        ({"momentum": None}, {}, r"the cumulative average \(momentum=None\) \(1\)"),
        ({"track_running_stats": False}, {}, r"evaluation by the batch itself \(track_running_stats=False\) \(1\)"),
        ({}, {"affine": False}, r"the scale \(1\), the shift \(1\)"),
    ],
)
def test_what_has_no_place_in_the_layer_is_said(options, wanted, message):
    with pytest.warns(match=f"TBBN does not take over {message}$"):
        convert_norms(trained(**options), "TBBN", **wanted)


def test_lost_hooks_are_said():
    network = small()
    network[1].register_forward_hook(lambda *_: None)
    with pytest.warns(match=r"TBBN does not take over the hooks \(1\)"):
        convert_norms(network, "TBBN")


@pytest.mark.filterwarnings("error")
def test_fresh_layers_are_those_of_the_factory():
    layer = convert_norms(trained(eps=1e-2), "IN", fresh=True)[1]
    assert (layer.weight, layer.eps) == (None, 1e-5)
    layer = convert_norms(trained(momentum=None), "TBBN", fresh=True)[1]
    assert layer.weight.eq(1).all()
    assert not layer.running_mean.any()


def test_state_of_the_old_network_fits_afterwards():
    network = trained()
    state, expected = network.state_dict(), network(IMAGES)
    other = convert_norms(small(nn.ReLU()), "AdaB2N", num_tasks=2).eval()
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert (set(missing), unexpected) == ({"1.cur_tasks", "1.task_weight"}, [])
    torch.testing.assert_close(other(IMAGES), expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.SyncBatchNorm(8), "1 is a SyncBatchNorm"), (nn.LazyBatchNorm2d(), "1 does not know its channels yet")],
)
def test_layers_that_cannot_be_replaced_are_refused(layer, message):
    network = nn.Sequential(nn.BatchNorm2d(8), layer)
    with pytest.raises(NormError, match=message):
        convert_norms(network, "TBBN")
    assert type(network[0]) is nn.BatchNorm2d


class WithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Doubling(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_activation_inside_a_subclass_is_kept():
    x = torch.randn(6, 8, 3, 3)
    network = nn.Sequential(WithActivation(8))
    expected = network(x)
    torch.testing.assert_close(convert_norms(network, "TBBN")(x), expected)


def test_unknown_subclass_is_an_error():
    with pytest.raises(NormError, match="Doubling does more than BatchNorm2d"):
        convert_norms(nn.Sequential(Doubling(8)), "TBBN")
