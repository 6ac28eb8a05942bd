import warnings

import pytest
import torch

from backbone.norm import NormError, build_norm
from tests.backbone.norm.rig import make, maps

grouped = pytest.mark.parametrize("name", ["GN", "CN"])


@grouped
@pytest.mark.parametrize(
    ("options", "num_groups"),
    [({}, 32), ({"num_groups": 8}, 8), ({"channels_per_group": 16}, 4), ({"num_groups": 64}, 64)],
)
def test_number_of_groups(name, options, num_groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = build_norm(name, 64, **options)
    assert layer.num_groups == num_groups
    assert f"num_groups={num_groups}" in repr(layer)


@grouped
@pytest.mark.parametrize(
    ("channels", "options", "num_groups"),
    [
        (16, {"num_groups": 32}, 16),
        (16, {}, 16),
        (20, {"num_groups": 8}, 5),
        (20, {"channels_per_group": 16}, 1),
        (40, {"channels_per_group": 16}, 2),
        (8, {"channels_per_group": 16}, 1),
        (7, {"num_groups": 4}, 1),
    ],
)
def test_groups_that_do_not_divide_the_channels(name, channels, options, num_groups):
    with pytest.raises(NormError, match=f"^{name}: {channels} channels cannot be divided into .*adjust_groups"):
        build_norm(name, channels, **options)
    with pytest.warns(UserWarning, match=f"{name}: {channels} channels are in {num_groups} groups instead"):
        layer = build_norm(name, channels, **options, adjust_groups=True)
    assert layer.num_groups == num_groups
    x = torch.randn(2, channels, 2, 2)
    torch.testing.assert_close(layer.eval()(x)[:1], layer(x[:1]))  # no group straddles samples


@grouped
@pytest.mark.parametrize("options", [{"num_groups": 0}, {"channels_per_group": 0}, {"num_groups": -2}])
def test_sizes_below_one(name, options):
    with pytest.raises(NormError, match=f"{name}: .* at least 1"):
        build_norm(name, 32, **options)


@grouped
def test_the_two_ways_to_choose_exclude_each_other(name):
    with pytest.raises(NormError, match=f"{name}: num_groups and channels_per_group exclude each other"):
        build_norm(name, 32, num_groups=4, channels_per_group=8)


def test_group_of_a_single_value_is_legal():
    layer = make("GN", side=1, num_groups=8)
    torch.testing.assert_close(layer(maps(1, side=1))[0, :, 0, 0], layer.bias, rtol=0, atol=1e-3)


def test_cn_is_gn_and_bn_in_turn():
    cn, gn, bn = make("CN"), build_norm("GN", 8, num_groups=4, affine=False), make("BN")
    torch.testing.assert_close(cn(maps()), bn(gn(maps())))
    torch.testing.assert_close(cn.running_mean, bn.running_mean)
    torch.testing.assert_close(cn.running_var, bn.running_var)
    torch.testing.assert_close(cn.eval()(maps(seed=3)), bn.eval()(gn(maps(seed=3))))


def test_cn_without_affine_has_nothing_to_train():
    assert not list(build_norm("CN", 32, affine=False).parameters())
