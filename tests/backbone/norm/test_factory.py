import pickle

import pytest

from backbone.norm import NormError, build_norm, norm_factory
from tests.backbone.norm.rig import GROUPED, NAMES
from utils.config.registry import NORMS


def test_the_eleven_layers_are_registered():
    assert {"BN", "LN", "IN", "GN", "SN", "BRN", "CN", "FRN", "DyT", "TBBN", "AdaB2N"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_factory_builds_what_was_asked_for(name):
    factory = norm_factory(name, num_tasks=3, affine=True, **GROUPED.get(name, {}))
    layer = factory(16, 4)
    assert type(layer) is NORMS.get(name)
    assert (layer.num_features, layer.spatial_size) == (16, 4)
    assert type(pickle.loads(pickle.dumps(factory))(16, 4)) is type(layer)


@pytest.mark.parametrize("name", NAMES)
def test_affine_is_left_to_the_layer(name):
    layer = build_norm(name, 32, spatial_size=2, num_tasks=3, affine=None)
    assert (layer.weight is None) == (name == "IN")


@pytest.mark.parametrize("spelling", ["adab2n", "AdaB²N", "ADAB2N"])
def test_spellings_of_one_name(spelling):
    assert build_norm(spelling, 8, num_tasks=2).name == "AdaB2N"


def test_unknown_layer():
    with pytest.raises(NormError, match="Did you mean 'TBBN'"):
        norm_factory("TBN")


@pytest.mark.parametrize(("name", "option"), [("BN", "kappa"), ("TBBN", "num_groups"), ("LN", "momentum")])
def test_unknown_option_is_an_error_at_once(name, option):
    with pytest.raises(NormError, match=f"{name} has no option '{option}'"):
        norm_factory(name, **{option: 1})


def test_a_layer_is_chosen_by_name():
    with pytest.raises(NormError, match="a norm layer is chosen by its name, as text"):
        norm_factory(type(build_norm("BN", 8)))


@pytest.mark.parametrize("affine", ["false", "auto", 2])
def test_what_is_no_truth_value_is_not_taken_for_one(affine):
    with pytest.raises(NormError, match="BN: affine is True, False or None"):
        norm_factory("BN", affine=affine)


def test_options_reach_the_layer():
    layer = build_norm("AdaB2N", 8, num_tasks=5, kappa=0.7, renormalize_absent=True, eps=1e-3)
    assert (layer.num_tasks, layer.kappa, layer.renormalize_absent, layer.eps) == (5, 0.7, True, 1e-3)
