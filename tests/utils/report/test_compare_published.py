"""One group beside the literature; the published figures are those of Cha et al., CVPR 2023, tables of CIFAR-100."""

from dataclasses import replace

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.records.ledger import Axes
from utils.records.selection import select
from utils.report.compare_groups import Group
from utils.report.compare_published import to_markdown

TASKS = [1.0] * 10
PUBLISHED = {"batch_size": 64, "lr": 0.1, "optim_mom": 0.0, "optim_wd": 1e-4, "milestones": [80, 120]}


def offline(norm, finals, num_tasks=10, **options):
    values = {**OFFLINE, **PUBLISHED, **options}
    return [run(norm, seed, {"A_f": final, "A": TASKS[:num_tasks]}, **values) for seed, final in enumerate(finals)]


def text_of(*runs, metric="A_f"):
    flat = [each for found in runs for each in found]
    return to_markdown(Group("study", flat, select(flat), Axes(("kappa",))), metric)


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def section(text, title):
    return text.partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines()


def test_cells_stand_beside_the_published_figures():
    text = text_of(offline("BN", [34.0, 36.0]), offline("TBBN", [39.0]))
    assert lines_of(text, "| seq-cifar100") == [
        "| seq-cifar100 ft 2000 | BN | 35.00 ± 1.41 (2) | 35.41 | −0.41 |",
        "| seq-cifar100 ft 2000 | TBBN | 39.00 (1) | 38.46 | +0.54 |",
    ]
    assert "Cha et al." in section(text, "Sources and remarks")[0]
    assert "Options that are not" not in text
    assert "No published figure" not in text


def test_options_that_are_not_the_published_ones_are_named():
    text = text_of(offline("BN", [35.0], lr=0.03), offline("TBBN", [39.0], lr=0.03, optim_mom=0.9))
    assert section(text, "Options that differ from the published ones") == [
        "- lr: 0.03, published 0.1 (everywhere)",
        "- optim_mom: 0.9, published 0 (seq-cifar100 ft 2000: TBBN)",
    ]
    assert lines_of(text, "| seq-cifar100 ft 2000 | BN")[0].endswith("| (35.41) | (−0.41) |")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backbone": "resnet18"}, "backbone resnet18"),
        ({"buffer_size": 500}, "buffer_size 500"),
        ({"num_tasks": 5}, "num_tasks 5"),
        ({"validation": 0.1}, "validation 0.1"),
        ({"backbone": "resnet18", "buffer_size": 500}, "backbone resnet18, buffer_size 500"),
        ({"protocol": "online"}, "protocol online"),
    ],
)
def test_the_closest_figure_is_shown_with_what_sets_ours_apart(options, reason):
    text = text_of(offline("BN", [35.0], **options))
    (line,) = section(text, "Published in a different setting")
    assert f"BN: ours: {reason}; published: CIFAR-100, ResNet-32, 10 tasks of 10 classes" in line
    assert lines_of(text, "| seq-cifar100")[0].endswith("| (35.41) | (−0.41) |")


def test_another_number_of_groups_sets_cn_apart():
    (line,) = section(text_of(offline("CN", [35.0], num_groups=4)), "Published in a different setting")
    assert "ours: num_groups 4" in line


def test_a_variant_is_held_against_its_own_figure():
    text = text_of(offline("CN", [35.0], num_groups=8), offline("CN", [36.0], num_groups=16))
    assert [line.split(" | ")[1:] for line in lines_of(text, "| seq-cifar100")] == [
        ["CN", "35.00 (1)", "35.06", "−0.06 |"],
        [r"CN\*", "36.00 (1)", "36.05", "−0.05 |"],
    ]


def test_cells_of_which_nothing_is_published_are_listed():
    text = text_of(offline("BN", [35.0]), offline("LN", [30.0]))
    assert section(text, "No published figure for") == ["- seq-cifar100 ft 2000: LN"]
    assert lines_of(text, "| seq-cifar100 ft 2000 | LN")[0].endswith("| – | – |")
    nothing = text_of(offline("LN", [30.0]))
    assert section(nothing, "No published figure for") == ["- any of these cells in this metric"]


def test_other_metrics_have_their_own_figures():
    runs = [run("TBBN", 0, {"A_f": 39.0, "F": 40.9, "A": TASKS}, **{**OFFLINE, **PUBLISHED})]
    assert lines_of(text_of(runs, metric="F"), "| seq-cifar100")[0].endswith("| 41.90 | −1.00 |")


def test_gains_are_held_against_the_published_ones():
    online = {"dataset": "seq-cifar10", "protocol": "online"}
    bn, ada = ([run(norm, 0, {"A_f": final}, **online)] for norm, final in (("BN", 40.0), ("AdaB2N", 44.0)))
    (line,) = section(text_of(bn, ada), "Sources and remarks")
    assert "ours gains +4.00; seq-cifar10: gains of AdaB2N over BN of up to 7.68 points" in line
    assert line.endswith("model er (published: er_ace or derpp)")
    assert "our settings differ: buffer_size 200 (published: 500 or 2000), " in line
    assert "ours gains" not in text_of(ada)


def test_typed_options_are_named_but_not_the_axes():
    origins = {"lr": "typed", "epochs": "typed", "seed": "typed", "notes": "typed", "batch_size": "protocol online"}
    (found,) = offline("LN", [30.0], lr=0.03)
    found = replace(found, config=replace(found.config, origins=origins))
    text = text_of([found], offline("BN", [30.0]))
    assert section(text, "Options set by hand or by the grid") == ["- lr: 0.03 (seq-cifar100 ft 2000: LN)"]


def test_missing_cells_are_explained_and_left_out():
    text = text_of(offline("BN", [35.0]), [run("GN", 0, None, state="diverged", reason="diverged", **OFFLINE)])
    assert section(text, "Missing") == ["- seq-cifar100 ft 2000, GN: seed 0 diverged"]
    assert not lines_of(text, "| seq-cifar100 ft 2000 | GN")
