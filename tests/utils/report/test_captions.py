from dataclasses import replace

import pytest

from tests.utils.report.rig import OFFLINE, run
from utils.records.selection import Cell, select
from utils.report.captions import caption, gaps, missing, notes, short_caption
from utils.report.tables import build_table


def cells_of(*runs):
    return select(runs)


def finals(norm, *values, **more):
    return [run(norm, seed, {"A_f": value}, **more) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([], "no run is complete yet"),
        (finals("BN", 1.0), "one seed, best"),
        (finals("BN", 1.0, 2.0), "over 2 seeds, best"),
        (finals("BN", 1.0, 2.0) + finals("GN", 1.0), "over 2 seeds (n where fewer)"),
    ],
)
def test_seeds(runs, text):
    assert text in caption(build_table(cells_of(*runs)))


def test_direction_of_the_metric():
    cells = cells_of(run("BN", 0, {"A_f": 1.0, "F": 3.0}))
    assert "percentage points, lower is better" in caption(build_table(cells, "F"))
    assert "lower" not in caption(build_table(cells))


def test_number_of_tests_that_were_corrected_for():
    runs = finals("BN", 1.0, 2.0, 3.0) + finals("GN", 1.0, 2.5, 3.0) + finals("CN", 4.0, 2.5, 3.0)
    assert "the 4 tests in this table" in short_caption(build_table(cells_of(*runs)))
    assert "t-test" not in short_caption(build_table(cells_of(*finals("BN", 1.0), *finals("GN", 2.0))))


def test_composition_by_method():
    runs = finals("BN", 1.0) + finals("BN", 1.0, model="er_ace", forward="separate")
    runs += finals("TBBN", 1.0, model="er_ace") + finals("BN", 1.0, model="sgd", forward=None, buffer_size=None)
    text = caption(build_table(cells_of(*runs)))
    assert "er: joint (BN); er_ace: joint (TBBN), separate (BN)." in text
    assert "sgd:" not in text


@pytest.mark.parametrize(
    ("selection", "words"), [("oracle", "the runs are tested on"), ("validation", "held-out part")]
)
def test_how_the_setting_was_chosen(selection, words):
    ((column, norms),) = cells_of(*finals("AdaB2N", 1.0), *finals("BN", 1.0)).items()
    chosen = replace(norms["AdaB2N"], num_settings=3, selection=selection)
    text = caption(build_table({column: {**norms, "AdaB2N": chosen}}))
    assert "Hyperparameters of AdaB2N selected" in text
    assert words in text


def test_nothing_is_said_of_selection_without_one():
    assert "selected" not in caption(build_table(cells_of(*finals("BN", 1.0))))


def test_held_out_columns_say_so():
    assert "held out" in caption(build_table(cells_of(*finals("BN", 1.0, validation=0.1))))
    assert "held out" not in caption(build_table(cells_of(*finals("BN", 1.0))))


def test_reasons_of_missing_cells():
    runs = [
        *finals("BN", 1.0),
        *finals("BN", 1.0, model="der"),
        run("GN", 0, None, state="diverged", reason="diverged"),
    ]
    table = build_table(cells_of(*runs), unreadable=["damaged record x"])
    assert sorted(gaps(table).values()) == ["not run", "seed 0 diverged"]
    assert missing(table) == [
        "seq-digits der 200, GN: not run",
        "seq-digits er 200, GN: seed 0 diverged",
        "not in the table: damaged record x",
    ]


def test_settings_other_than_the_published_one_are_named():
    metrics = {"A_f": 30.0, "A": [1.0] * 10}
    table = build_table(cells_of(run("BN", 0, metrics, **{**OFFLINE, "epochs": 5, "lr": 0.03})))
    (line,) = [line for line in notes(table) if "settings differ" in line]
    assert line.endswith("BN: our settings differ: epochs 5 (published: 160), lr 0.03 (published: 0.1)")


def test_gains_are_noted_where_both_layers_were_run():
    both = finals("BN", 1.0, dataset="seq-cifar10") + finals("AdaB2N", 2.0, dataset="seq-cifar10")
    (line,) = notes(build_table(cells_of(*both)))
    assert "7.68" in line
    assert notes(build_table(cells_of(*both[1:]))) == []
    assert notes(build_table(cells_of(*both), "forgetting")) == []


def test_a_cell_without_runs_needs_no_notes():
    ((column, norms),) = cells_of(*finals("BN", 1.0)).items()
    table = build_table({column: {"BN": Cell({}, 0, reason="search: 3 of 8 runs complete")}})
    assert gaps(table) == {("BN", column): "search: 3 of 8 runs complete"}
    assert notes(table) == []
    assert norms


def test_a_column_whose_runs_did_not_measure_the_metric_is_told():
    runs = [*finals("BN", 1.0, buffer_size=100), run("BN", 0, {"A_f": 1.0, "min-ACC": 3.0}, buffer_size=200)]
    (line,) = notes(build_table(cells_of(*runs), "min-ACC"))
    assert line.startswith("seq-digits er 100: the runs did not measure min-ACC; a run with --eval_every N on a stream")
    assert not notes(build_table(cells_of(*runs)))
