from dataclasses import replace
from pathlib import Path

import pytest

from utils.records.collect import Run
from utils.records.content import Result
from utils.records.ledger import Axes
from utils.records.selection import best_setting, select
from utils.records.state import RunState

VALUES = {"dataset": "d", "model": "er", "buffer_size": 5, "epochs": 1, "validation": 0.0}


def run(norm, seed, final=None, state=RunState.COMPLETE, **values):
    result = Result({"class_il": {"A_f": final}, "task_il": {"A_f": final}}) if final is not None else None
    reason = "" if state is RunState.COMPLETE else str(state)
    return Run(Path("x"), {**VALUES, "nl": norm, "seed": seed, **values}, state, reason, result=result)


def choose(runs):
    """The cells of a plan that searches kappa."""
    return select(runs, Axes(searched=("kappa",)))


def only(cells, norm):
    (column,) = cells.values()
    return column[norm]


def test_best_mean_over_seeds_wins_and_all_settings_are_counted():
    runs = [run("A", 0, 90.0, kappa=0.1), run("A", 1, 10.0, kappa=0.1)]
    runs += [
        run("A", 0, 60.0, kappa=0.4),
        run("A", 1, 62.0, kappa=0.4),
        run("A", 0, state=RunState.DIVERGED, kappa=0.7),
    ]
    cell = only(choose(runs), "A")
    assert cell.setting == {"kappa": 0.4}
    assert cell.num_settings == 3
    assert cell.values("class_il", "A_f") == {0: 60.0, 1: 62.0}
    assert cell.reason == ""


def test_a_setting_that_was_not_run_was_neither_tried_nor_selected():
    runs = [run("A", 0, state=RunState.NOT_RUN, kappa=kappa) for kappa in (0.1, 0.4)]
    cell = only(choose([replace(each, has_record=False) for each in runs]), "A")
    assert (cell.num_settings, cell.setting, cell.num_values) == (0, {}, {"kappa": 0})
    runs = [run("A", 0, state=RunState.DIVERGED, kappa=kappa) for kappa in (0.1, 0.4)]
    cell = only(choose(runs), "A")
    assert (cell.num_settings, cell.setting, cell.num_values) == (2, {}, {"kappa": 2})


def test_where_it_ran_is_no_setting():
    runs = [run("A", 0, 50.0, threads=1, notes="x"), run("A", 1, 50.0, threads=2, notes="y")]
    assert only(choose(runs), "A").num_settings == 1


def test_missing_seeds_are_told():
    cell = only(choose([run("A", 0, 50.0), run("A", 1, state=RunState.STARTED)]), "A")
    assert cell.reason == "1 of 2 seeds complete: seed 1 started"
    assert only(choose([run("A", 0, state=RunState.DIVERGED)]), "A").reason == "seed 0 diverged"


def test_seeds_that_are_missing_for_one_reason_are_told_together():
    runs = [run("A", seed, state=RunState.STARTED) for seed in (2, 0, 1)]
    assert only(choose(runs), "A").reason == "seeds 0, 1, 2 started"
    runs += [run("A", 3, state=RunState.DIVERGED), run("A", 4, 50.0)]
    reason = "1 of 5 seeds complete: seeds 0, 1, 2 started; seed 3 diverged"
    assert only(choose(runs), "A").reason == reason


def test_a_search_on_test_data_that_is_not_over_is_told():
    runs = [run("A", 0, 50.0, kappa=0.1), run("A", 0, state=RunState.STARTED, kappa=0.4)]
    cell = only(choose(runs), "A")
    assert (cell.setting, cell.num_settings) == ({"kappa": 0.1}, 2)
    assert cell.reason == "search: 1 of 2 runs complete"
    assert only(choose([runs[0], run("A", 0, 40.0, kappa=0.4)]), "A").reason == ""


def test_other_epochs_and_buffers_are_other_columns():
    assert len(select([run("A", 0, 1.0), run("A", 0, 2.0, epochs=5), run("A", 0, 3.0, buffer_size=9)])) == 3


def test_figures_come_from_the_setting_that_is_best_on_the_common_seeds():
    """With a search on one seed the winner has more seeds, which may be harder ones."""
    runs = [run("A", 0, 70.0, kappa=0.1), run("A", 1, 50.0, kappa=0.1), run("A", 2, 45.0, kappa=0.1)]
    cell = only(choose([*runs, run("A", 0, 60.0, kappa=0.4)]), "A")
    assert (cell.setting, cell.num_settings, cell.selection) == ({"kappa": 0.1}, 2, "oracle")
    assert cell.values("class_il", "A_f") == {0: 70.0, 1: 50.0, 2: 45.0}


def test_one_setting_is_no_selection():
    assert only(choose([run("A", 0, 50.0)]), "A").selection == ""


# -- The rule ---------------------------------------------------------------------------------------------------------


def best(**settings):
    """The best of settings given as lists of final accuracies by seed; `None` is a diverged run, `...` an open one."""
    kinds = {None: (None, RunState.DIVERGED), ...: (None, RunState.STARTED)}
    made = {
        name: [run("A", seed, *kinds.get(final, (final, RunState.COMPLETE))) for seed, final in enumerate(finals)]
        for name, finals in settings.items()
    }
    return best_setting(made)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"a": [60.0, 40.0], "b": [50.0, 51.0]}, "b"),
        ({"a": [50.0, 50.0], "b": [50.0, 50.0]}, "a"),  # the first one wins a tie
        ({"a": [50.0, ...], "b": [50.0, 10.0]}, "b"),  # unless another has more seeds
        ({"a": [60.0, ...], "b": [50.0, 99.0]}, "a"),  # over the common seeds
        ({"a": [60.0, None], "b": [50.0, 40.0]}, "b"),  # a diverged run counts as 0
        ({"a": [60.0, None], "b": [20.0, 39.0]}, "a"),
        ({"a": [..., None], "b": [0.0, ...]}, "b"),
        ({"a": [30.0, ...], "b": [..., 20.0]}, "a"),  # no common seed
        ({"a": [None], "b": [...], "c": []}, None),
        ({}, None),
    ],
)
def test_rule_of_the_choice(settings, expected):
    assert best(**settings) == expected


# -- A search on held-out data ----------------------------------------------------------------------------------------


def held_out(seed, final=None, state=RunState.COMPLETE, **values):
    return run("A", seed, final, state, validation=0.1, **values)


def searched(*runs):
    """The cell of a searched layer beside another one that was not searched."""
    return only(choose([run("BN", 0, 50.0), *runs]), "A")


SEARCH = (
    held_out(0, 90.0, kappa=0.1),
    held_out(1, 90.0, kappa=0.1),
    held_out(0, 95.0, kappa=0.4),
    held_out(1, 95.0, kappa=0.4),
)


def test_setting_is_chosen_on_held_out_data_and_its_figures_are_of_runs_on_all_data():
    cell = searched(*SEARCH, run("A", 0, 60.0, kappa=0.4), run("A", 1, 62.0, kappa=0.4))
    assert (cell.setting, cell.num_settings, cell.selection) == ({"kappa": 0.4}, 2, "validation")
    assert cell.values("class_il", "A_f") == {0: 60.0, 1: 62.0}
    assert cell.reason == ""


def test_what_is_better_on_the_test_data_does_not_matter_once_there_is_a_search():
    cell = searched(*SEARCH, run("A", 0, 99.0, kappa=0.1), run("A", 0, 60.0, kappa=0.4))
    assert cell.values("class_il", "A_f") == {0: 60.0}


def test_diverged_settings_of_a_search_count_as_tried():
    runs = [*SEARCH, held_out(0, state=RunState.DIVERGED, kappa=0.7), run("A", 0, 60.0, kappa=0.4)]
    cell = searched(*runs)
    assert (cell.num_settings, cell.reason) == (3, "")


def test_no_figure_while_the_search_is_under_way():
    cell = searched(*SEARCH[:3], held_out(1, state=RunState.STARTED, kappa=0.4))
    assert (cell.runs, cell.setting, cell.selection) == ({}, {}, "validation")
    assert cell.reason == "search: 3 of 4 runs complete"


def test_runs_that_were_not_begun_count_where_others_of_the_seed_were():
    assert searched(*SEARCH[:3]).reason.startswith("search: 3 of 4 runs complete")


def test_figures_of_an_earlier_oracle_are_no_figures_of_a_search_under_way():
    oracle = (run("A", 0, 70.0, kappa=0.1), run("A", 0, 60.0, kappa=0.4))
    assert searched(*oracle, *SEARCH[:3], held_out(1, state=RunState.STARTED, kappa=0.4)).runs == {}


def test_a_run_of_the_search_that_failed_for_good_does_not_hide_the_chosen_one():
    cell = searched(*SEARCH, held_out(0, state=RunState.STARTED, kappa=0.7), run("A", 0, 60.0, kappa=0.4))
    assert cell.values("class_il", "A_f") == {0: 60.0}
    assert cell.reason == "search: 4 of 6 runs complete"


def test_a_search_that_is_over_names_what_was_not_run_on_all_data_yet():
    cell = searched(*SEARCH)
    assert cell.runs == {}
    assert cell.reason == "search: 4 of 4 runs complete, the best so far (kappa 0.4) not yet run on all data"
    cell = searched(*SEARCH, run("A", 0, 60.0, kappa=0.4), run("A", 1, state=RunState.STARTED, kappa=0.4))
    assert cell.reason == "1 of 2 seeds complete: seed 1 started"


def test_a_search_without_a_complete_run_says_so():
    runs = [held_out(0, state=RunState.DIVERGED, kappa=0.1), held_out(0, state=RunState.DAMAGED, kappa=0.4)]
    assert searched(*runs).reason == "search: 0 of 2 runs complete, 1 diverged, 1 damaged"


def test_in_a_tie_the_chosen_one_is_that_which_was_run_on_all_data():
    runs = (held_out(0, 90.0, kappa=0.1), held_out(0, 90.0, kappa=0.4), run("A", 0, 60.0, kappa=0.4))
    assert searched(*runs).setting == {"kappa": 0.4}


def test_held_out_runs_of_one_setting_choose_nothing():
    cell = searched(held_out(0, 90.0), run("A", 0, 60.0))
    assert (cell.values("class_il", "A_f"), cell.selection, cell.num_settings) == ({0: 60.0}, "", 1)


def test_held_out_runs_alone_and_those_of_another_share_are_a_column_of_their_own():
    cells = choose([held_out(0, 90.0, kappa=0.1), held_out(0, 80.0, kappa=0.4)])
    assert [column.validation for column in cells] == [0.1]
    assert only(cells, "A").selection == "oracle"  # on what the runs are tested on
    assert len(select([run("A", 0, 1.0, validation=0.2), run("A", 0, 2.0)])) == 2


def test_values_of_any_kind_can_be_a_setting():
    values = [None, 0.5, 3, [1, "two"]]
    cell = only(choose([run("A", 0, float(index), kappa=value) for index, value in enumerate(values)]), "A")
    assert (cell.num_settings, cell.setting) == (4, {"kappa": (1, "two")})


# -- Experiments that are not settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "titles"),
    [
        ("ssil_distill", ("all", "last"), {"ssil_distill all", "ssil_distill last"}),
        ("reherd", (True, False), {"reherd 1", "reherd 0"}),
        ("val_fraction", (0.0, 0.1), {"val_fraction 0.0", "val_fraction 0.1"}),
        ("class_order", ([1, 0], "seeded"), {"class_order 1,0", "class_order seeded"}),
    ],
)
def test_another_experiment_is_another_column_and_never_chosen(name, values, titles):
    runs = [run("BN", 0, 90.0, **{name: values[0]}), run("BN", 0, 50.0, **{name: values[1]})]
    cells = select([*runs, run("TBBN", 0, 60.0, **{name: values[1]})])
    assert {column.compared_text for column in cells} == titles
    by_norm = [norms for norms in cells.values() if "TBBN" in norms]
    assert [norms["BN"].values("class_il", "A_f") for norms in by_norm] == [{0: 50.0}]
    assert all(cell.num_settings == 1 and not cell.selection for norms in cells.values() for cell in norms.values())


def test_what_a_layer_or_a_method_alone_has_makes_no_other_experiment():
    runs = [run("BN", 0, 90.0, forward="separate"), run("TBBN", 0, 60.0, forward="joint", affine=False)]
    assert len(select([*runs, run("AdaB2N", 0, 70.0, forward="joint", renormalize_absent=True)])) == 1


def test_a_run_of_the_search_alone_is_not_in_the_mean():
    """It is judged on its seed, which is not one of those that are asked for."""
    runs = [replace(run("A", 0, 99.0, kappa=0.1), for_search=True), run("A", 1, 50.0, kappa=0.1)]
    runs += [replace(run("A", 0, 98.0, kappa=0.4), for_search=True)]
    cell = only(choose(runs), "A")
    assert (cell.setting, cell.num_settings) == ({"kappa": 0.1}, 2)
    assert cell.values("class_il", "A_f") == {1: 50.0}


def test_a_setting_that_no_run_has_begun_with_is_not_tried():
    runs = [run("A", 0, 50.0, kappa=0.1), run("A", 0, state=RunState.NOT_RUN, kappa=0.4)]
    cell = only(choose(runs), "A")
    assert (cell.num_settings, cell.selection, cell.reason) == (1, "", "search: 1 of 2 runs complete")


# -- Compared options -------------------------------------------------------------------------------------------------


def titles(cells):
    return [column.compared_text for column in cells]


def test_what_nobody_asked_to_search_is_compared():
    """Of a later run with another learning rate and one seed the mean of two seeds says nothing."""
    runs = [run("BN", 0, 50.0, lr=0.03), run("BN", 1, 52.0, lr=0.03), run("BN", 0, 90.0, lr=0.1)]
    cells = choose(runs)
    assert titles(cells) == ["lr 0.03", "lr 0.1"]
    first, second = cells.values()
    assert (first["BN"].values("class_il", "A_f"), first["BN"].selection) == ({0: 50.0, 1: 52.0}, "")
    assert second["BN"].num_settings == 1


def test_a_layer_without_the_option_stands_in_each_of_its_columns():
    runs = [run("BN", 0, 50.0), run("A", 0, 60.0, kappa=0.4), run("A", 0, 70.0, kappa=1.0)]
    cells = select(runs)
    assert titles(cells) == ["kappa 0.4", "kappa 1.0"]
    assert [norms["BN"].values("class_il", "A_f") for norms in cells.values()] == [{0: 50.0}] * 2
    assert [norms["A"].values("class_il", "A_f") for norms in cells.values()] == [{0: 60.0}, {0: 70.0}]


def test_options_of_two_layers_are_compared_in_every_combination_and_no_column_is_empty():
    runs = [run("A", 0, 1.0, kappa=kappa, lr=lr) for kappa, lr in ((0.4, 0.03), (1.0, 0.03), (1.0, 0.1))]
    runs += [run("BN", 0, 2.0, lr=lr) for lr in (0.03, 0.1)]
    assert titles(select(runs)) == ["lr 0.03, kappa 0.4", "lr 0.03, kappa 1.0", "lr 0.1, kappa 1.0"]
    runs = [run("A", 0, 1.0, kappa=kappa) for kappa in (0.4, 1.0)] + [run("G", 0, 1.0, groups=n) for n in (4, 8)]
    assert sorted(titles(select(runs))) == [f"groups {n}, kappa {kappa}" for n in (4, 8) for kappa in (0.4, 1.0)]


def test_an_option_splits_columns_only_if_it_differs_within_a_row():
    runs = [run("BN", 0, 1.0, affine=True, forward="separate"), run("A", 0, 1.0, affine=False, forward="joint")]
    assert titles(select(runs)) == [""]
    other = run("BN", 0, 2.0, affine=False, forward="separate")
    assert sorted(titles(select([*runs, other]))) == ["affine 0", "affine 1"]


def test_what_follows_from_a_compared_or_searched_option_is_not_named():
    runs = [run("BN", 0, 1.0, batch_size=n, minibatch_size=n) for n in (10, 32)]
    assert titles(select(runs)) == ["batch_size 10", "batch_size 32"]
    cell = only(select(runs, Axes(searched=("batch_size",))), "BN")
    assert (cell.num_settings, cell.setting) == (2, {"batch_size": 10})
    runs = [run("BN", 0, 1.0, epochs=n, milestones=[n]) for n in (2, 4)]
    assert titles(select(runs)) == ["", ""]


def test_a_searched_buffer_is_no_column():
    cells = select([run("A", 0, 10.0 * size, buffer_size=size) for size in (1, 2)], Axes(searched=("buffer_size",)))
    assert [(column.buffer_size, norms["A"].setting) for column, norms in cells.items()] == [(None, {"buffer_size": 2})]


def test_a_variant_whose_option_is_an_axis_is_its_layer():
    runs = [run("CN", 0, 1.0 * groups, num_groups=groups) for groups in (8, 16)]
    assert [list(norms) for norms in select(runs).values()] == [["CN", "CN*"]]
    compared = select(runs, Axes(compared=("num_groups",)))
    assert [list(norms) for norms in compared.values()] == [["CN"], ["CN"]]
    assert only(select(runs, Axes(searched=("num_groups",))), "CN").setting == {"num_groups": 16}


@pytest.mark.parametrize("name", ["eval_every", "ignore_other_metrics", "retune_norms", "threads", "data_root"])
def test_what_is_measured_or_where_is_no_setting_and_one_run_stands_for_a_seed(name):
    more = {"A_f": 50.0, "AAA": 40.0}
    runs = [run("BN", 0, 50.0, **{name: 1}), run("BN", 0, 50.0, **{name: 2}), run("BN", 1, state=RunState.STARTED)]
    runs[1] = replace(runs[1], result=Result({"class_il": more, "task_il": more}))
    runs += [run("BN", 1, 40.0, **{name: 2})]
    cell = only(select(runs), "BN")
    assert (cell.num_settings, cell.setting, cell.reason) == (1, {}, "")
    assert cell.values("class_il", "AAA") == {0: 40.0}
    assert cell.values("class_il", "A_f") == {0: 50.0, 1: 40.0}


def test_runs_of_no_plan_are_in_no_cell():
    stranger = replace(run("BN", 1, 99.0), is_planned=False)
    assert only(select([run("BN", 0, 50.0), stranger]), "BN").values("class_il", "A_f") == {0: 50.0}


def test_columns_may_be_split_by_what_other_groups_compare():
    assert titles(select([run("BN", 0, 50.0, lr=0.1)], split_by={"lr"})) == ["lr 0.1"]
