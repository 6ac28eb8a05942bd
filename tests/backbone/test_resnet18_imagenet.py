import math

import pytest
import torch
from torchvision.models import resnet18

from backbone.resnet18_imagenet import ResNet18ImageNet
from tests.backbone.rig import Places, build, convolutions, num_parameters


def torchvisions_name(name):
    """The name of one of our parameters or buffers in torchvision's network."""
    if name.startswith("stem"):
        return name.replace("stem.0", "conv1").replace("stem.1", "bn1")
    _, stage, block, *rest = name.split(".")
    rest = ".".join(rest).replace("norm", "bn").replace("shortcut", "downsample")
    return f"layer{int(stage) + 1}.{block}.{rest}"


def pair():
    ours, theirs = build(ResNet18ImageNet, image_size=64), resnet18()
    theirs.fc = torch.nn.Identity()
    state = {torchvisions_name(name): values for name, values in ours.state_dict().items()}
    theirs.load_state_dict(state)  # strict: the same names and shapes, none missing
    return ours, theirs


@pytest.mark.parametrize("side", [224, 64])
def test_network_is_torchvisions(side):
    ours, theirs = pair()
    x = torch.randn(2, 3, side, side)
    assert torch.equal(ours.train()(x), theirs.train()(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_gradients_are_torchvisions():
    ours, theirs = pair()
    x = torch.randn(2, 3, 64, 64)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter.grad, gradients[torchvisions_name(name)].grad)


def test_number_of_parameters():
    """Torchvision's 11,689,512 less the classifier's 512 x 1000 + 1000."""
    network = build(ResNet18ImageNet, image_size=224)
    assert num_parameters(network) == 11_689_512 - 513_000
    assert network.num_features == 512


@pytest.mark.parametrize(
    ("image_size", "sides"),
    [(224, (56, 28, 14, 7)), (64, (16, 8, 4, 2)), (33, (9, 5, 3, 2)), (17, (5, 3, 2, 1))],
)
def test_maps_of_each_stage(image_size, sides):
    network = build(ResNet18ImageNet, image_size=image_size, nf=4)
    with torch.no_grad():
        _, maps = network.forward_maps(torch.randn(2, 3, image_size, image_size))
    assert [tuple(each.shape[1:]) for each in maps] == [(4 * 2**i, side, side) for i, side in enumerate(sides)]


def test_layers_in_order():
    places = Places()
    build(ResNet18ImageNet, places, image_size=224, nf=2)
    assert places.asked == [(2, 112)] + [(2, 56)] * 4 + [(4, 28)] * 5 + [(8, 14)] * 5 + [(16, 7)] * 5


def test_initial_weights_are_kaiming_normal_over_the_fan_out():
    for convolution in convolutions(build(ResNet18ImageNet, "none", image_size=64, nf=32)):
        weight = convolution.weight.detach()
        expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        num_spreads = 5 / math.sqrt(weight.numel())
        assert abs(weight.mean()) < num_spreads * expected
        assert weight.std() == pytest.approx(expected, rel=num_spreads)
        assert weight.abs().max() > 2.3 * expected
