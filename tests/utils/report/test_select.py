from pathlib import Path

from utils.report.collect import COMPLETE, DIVERGED, INCOMPLETE, Run
from utils.report.select import select

COLUMN = {"dataset": "d", "model": "er", "buffer_size": 5, "epochs": 1}


def run(norm, seed, final=None, status=COMPLETE, **values):
    metrics = {"class_il": {"A_f": final}, "task_il": {"A_f": final}} if final is not None else None
    reason = "" if status == COMPLETE else status
    return Run(Path("x"), {**COLUMN, "nl": norm, "seed": seed, **values}, status, reason, metrics)


def only(cells, norm):
    (column,) = cells.values()
    return column[norm]


def test_best_mean_over_seeds_wins_and_all_settings_are_counted():
    runs = [run("A", 0, 90.0, kappa=0.1), run("A", 1, 10.0, kappa=0.1)]
    runs += [run("A", 0, 60.0, kappa=0.4), run("A", 1, 62.0, kappa=0.4), run("A", 0, status=DIVERGED, kappa=0.7)]
    cell = only(select(runs), "A")
    assert cell.setting == {"kappa": 0.4}
    assert cell.num_settings == 3
    assert cell.values("class_il", "A_f") == {0: 60.0, 1: 62.0}
    assert cell.reason == ""


def test_where_it_ran_is_no_setting():
    runs = [run("A", 0, 50.0, threads=1, notes="x"), run("A", 1, 50.0, threads=2, notes="y")]
    assert only(select(runs), "A").num_settings == 1


def test_missing_seeds_are_told():
    cell = only(select([run("A", 0, 50.0), run("A", 1, status=INCOMPLETE)]), "A")
    assert cell.reason == "1 of 2 seeds complete: seed 1 incomplete"
    assert only(select([run("A", 0, status=DIVERGED)]), "A").reason == "seed 0 diverged"


def test_other_epochs_and_buffers_are_other_columns():
    assert len(select([run("A", 0, 1.0), run("A", 0, 2.0, epochs=5), run("A", 0, 3.0, buffer_size=9)])) == 3


def test_validation_runs_are_not_mixed_with_test_runs():
    assert len(select([run("A", 0, 1.0, validation=0.1), run("A", 0, 2.0, validation=0.0)])) == 2
