import json
from pathlib import Path

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.config.configuration import configure
from utils.report import published
from utils.report.published import differences, differences_from_gain, find, gain, values_of


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


REVIEWED = "--val_fraction 0 --best_epoch last --cifar_crop shift --quota floor --reherd 0 --exemplar_selection random"


def configured(model, dataset, norm, *more):
    """The values as a record of such a run has them."""
    layer = ("CN", "--num_groups", "16") if norm == "CN*" else (norm,)
    words = ("--model", model, "--dataset", dataset, "--buffer_size", "2000", "--nl", *layer, *more)
    config = configure(words)
    return config, json.loads(json.dumps(config.values)) | {"num_tasks": 10}


def cells():
    stored = json.loads(Path(published.__file__).with_name("published.json").read_text(encoding="utf-8"))
    for name, methods in stored["figures"].items():
        for method, norms in methods.items():
            yield from ((stored["settings"][name]["match"]["dataset"], method, norm) for norm in norms)


@pytest.mark.parametrize(("dataset", "method", "norm"), list(cells()))
def test_a_run_with_nothing_typed_has_the_published_options_and_all_of_them_are_known(dataset, method, norm):
    config, values = configured(method, dataset, norm)
    figure = find(values, config.nl, "A_f")
    assert differences(figure, values) == {}
    unused = config.inactive(config.values)
    counting = {name for name, option in config.options.items() if option.changes_result and name in config.used()}
    # What picks the figure, and what is measured beside the accuracies without changing them.
    elsewhere = {"protocol", "dataset", "model", "nl", "backbone", "buffer_size", "validation", "seed"} | {
        "stream",
        "imbalance",
        "budget_steps",
    }
    beside = {"ignore_other_metrics", "retune_norms", "eval_every", "eval_images"}
    assert counting - unused.keys() - elsewhere - beside <= figure.options.keys()


@pytest.mark.parametrize(
    ("model", "typed"),
    [
        ("ssil", f"{REVIEWED} --batch_ratio 1 --ratio_cycle reshuffle --lr_decay 0.5 --ssil_distill all"),
        ("ssil", "--class_order icarl"),
        ("eeil", "--second_epochs 1 --eeil_second_stage balanced --eeil_skip_newest_head 0"),
        ("podnet", "--second_epochs 1 --podnet_lambda_c 100 --nca softmax"),
        ("podnet", "--batching union"),
        ("lucir", "--lucir_relu final --debug_mode 3"),
    ],
)
def test_whatever_was_typed_otherwise_is_a_difference(model, typed):
    _, values = configured(model, "seq-cifar100", "BN", *typed.split())
    names = {word[2:] for word in typed.split() if word.startswith("--")}
    assert names <= differences(find(values, "BN", "A_f"), values).keys()


@pytest.mark.parametrize(
    ("dataset", "sizes"), [("seq-cifar10", (500, 2000)), ("seq-cifar100", (2000, 5000)), ("seq-miniimg", (2000, 5000))]
)
@pytest.mark.parametrize("model", ["er_ace", "derpp"])
@pytest.mark.parametrize("norm", ["BN", "AdaB2N"])
def test_online_runs_with_nothing_typed_are_those_of_the_published_gains(dataset, sizes, model, norm):
    for size in sizes:
        words = ("--model", model, "--dataset", dataset, "--nl", norm, "--buffer_size", str(size))
        assert differences_from_gain(configure(words).values) == {}


def test_online_runs_of_another_setting_differ_from_those_of_the_published_gains():
    typed = "--buffer_size 200 --epochs 5 --lr 0.1 --alpha 0.3 --affine false"
    assert differences_from_gain(configure(f"--model der --dataset seq-cifar10 {typed}".split()).values) == {
        "model": ("der", ["er_ace", "derpp"]),
        "buffer_size": (200, [500, 2000]),
        "epochs": (5, [1]),
        "lr": (0.1, [0.03]),
        "alpha": (0.3, [0.2, 0.1]),
        "affine": (False, [True]),
    }


@pytest.mark.parametrize(
    "typed", ["--first_task_classes 55 --classes_per_task 5", "--n_tasks 5", "--imbalance exp", "--n_tasks 20"]
)
def test_another_stream_than_the_published_one_has_no_published_figure(typed):
    config, values = configured("ft", "seq-cifar100", "BN", *typed.split())
    values |= {"num_tasks": config.arrangement.num_tasks(100)}
    assert find(values, "BN", "A_f") is None
