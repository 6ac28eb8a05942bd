import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.report.published import differences, find, gain, values_of


@pytest.mark.parametrize(
    ("changed", "norm", "metric", "value"),
    [
        ({}, "TBBN", "A_f", 38.46),
        ({}, "BN", "A_a", 53.88),
        ({}, "BN", "A_l", 78.79),
        ({"model": "eeil"}, "TBBN", "F", 37.80),
        ({"model": "ssil"}, "BN", "A_f", 41.34),
        ({"model": "podnet", "backbone": "podnet_resnet32"}, "CN", "A_f", 34.80),
        ({"model": "afc", "backbone": "podnet_resnet18", "dataset": "seq-imagenet100"}, "TBBN", "A_f", 54.00),
        ({"dataset": "seq-imagenet100", "backbone": "resnet18_imagenet", "model": "lucir"}, "CN", "A_l", 83.48),
        ({"num_groups": 8}, "CN", "A_f", 35.06),
        ({"num_groups": 16}, "CN", "A_f", 36.05),
        ({"num_tasks": 10}, "SN", "A_f", 36.29),
    ],
)
def test_figures_of_the_published_cells(changed, norm, metric, value):
    assert find({**OFFLINE, **changed}, norm, metric).value == value


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "seq-cifar10"},
        {"model": "er"},
        {"model": "podnet"},
        {"backbone": "resnet18"},
        {"buffer_size": 500},
        {"protocol": "online"},
        {"num_tasks": 5},
        {"validation": 0.1},
        {"num_groups": 4},
        {"num_groups": None},
    ],
)
def test_nothing_is_published_of_other_settings(changed):
    assert find({**OFFLINE, "num_tasks": 10, "num_groups": 8, **changed}, "CN", "A_f") is None


@pytest.mark.parametrize(("norm", "metric"), [("AdaB2N", "A_f"), ("LN", "A_f"), ("BN", "forgetting")])
def test_nothing_is_published_of_other_layers_and_metrics(norm, metric):
    assert find(OFFLINE, norm, metric) is None


def test_a_column_finds_its_figure():
    column = {"dataset": "seq-cifar100", "model": "ft", "buffer_size": 2000, "backbone": "resnet32", "nf": None}
    assert find(column, "BN", "A_f").value == 35.41


def test_source_setting_and_slips_are_told():
    figure = find(OFFLINE, "BN", "F")
    assert "CVPR 2023" in figure.source
    assert "ResNet-32" in figure.setting
    assert "43.48" in figure.remark
    assert (
        "44.62" in find({**OFFLINE, "dataset": "seq-imagenet100", "backbone": "resnet18_imagenet"}, "TBBN", "F").remark
    )
    assert find(OFFLINE, "TBBN", "F").remark == ""
    assert find({**OFFLINE, "num_groups": 16}, "CN", "A_f").remark.startswith("published as CN*")


def test_options_that_differ_from_the_published_ones():
    figure = find(OFFLINE, "BN", "A_f")
    assert differences(figure, {**OFFLINE, "epochs": 5, "milestones": [80, 120], "lr": 0.1}) == {"epochs": (5, 160)}
    assert differences(figure, {**OFFLINE, "milestones": (80, 120)}) == {}


def test_tasks_are_counted_in_the_run():
    assert values_of(run("BN", 0, {"A": [1.0, 2.0, 3.0]}))["num_tasks"] == 3


def test_largest_gains_of_adab2n_are_online():
    assert "7.68" in gain("seq-cifar10", "online")
    assert "6.86" in gain("seq-cifar100", "online")
    assert "4.26" in gain("seq-miniimg", "online")
    assert gain("seq-cifar10", "offline") is None
    assert gain("seq-digits", "online") is None
