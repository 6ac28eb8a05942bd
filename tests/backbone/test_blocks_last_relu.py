"""The last ReLU of a stage, which some methods drop."""

import copy

import pytest
import torch

from backbone.podnet_resnet32 import PODNetResNet32
from backbone.resnet18 import ResNet18
from backbone.resnet32 import ResNet32
from tests.backbone.rig import build
from utils.errors import UserError


def maps_of(network):
    torch.manual_seed(1)
    with torch.no_grad():
        return network.forward_maps(torch.randn(3, 3, 32, 32))


@pytest.mark.parametrize(
    ("backbone", "stage", "number"),
    [(ResNet32, "layer3", 2), (ResNet32, "final", 2), (ResNet18, "layer3", 2), (ResNet18, "final", 3)],
)
def test_dropped_relu_leaves_both_signs_after_that_stage_alone(backbone, stage, number):
    options = {"nf": 4} if backbone is ResNet18 else {}
    network, plain = build(backbone, **options), build(backbone, **options)
    network.drop_last_relu(stage)
    features, maps = maps_of(network)
    plain_features, plain_maps = maps_of(plain)
    for index, values in enumerate(maps):
        assert (values.min() < 0) == (index == number)
    assert all(map(torch.equal, maps[:number], plain_maps[:number]))
    assert torch.equal(maps[number].clamp(min=0), plain_maps[number])
    assert not torch.equal(features, plain_features)
    torch.testing.assert_close(features, maps[-1].mean((2, 3)))


def test_stage_after_a_dropped_relu_takes_both_signs():
    network = build(ResNet18, nf=4)
    network.drop_last_relu("layer3")
    seen = []
    network.stages[3].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    _, maps = maps_of(network)
    assert torch.equal(seen[0], maps[2])
    assert seen[0].min() < 0


def test_copies_keep_the_dropped_relu_and_weights_do_not_change():
    network, plain = build(ResNet32), build(ResNet32)
    network.drop_last_relu("final")
    assert copy.deepcopy(network).stages[2][-1].last_relu is False
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True))


def test_stage_without_a_relu_stays_as_it_is_and_one_that_is_not_there_is_refused():
    network = build(PODNetResNet32)
    network.drop_last_relu("final")
    assert network.stages[-1][-1].last_relu is False
    with pytest.raises(UserError, match="resnet32 has no stage layer4; choose among layer1, layer2, layer3, final"):
        build(ResNet32).drop_last_relu("layer4")
