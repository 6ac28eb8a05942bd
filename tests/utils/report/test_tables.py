import pytest

from tests.utils.report.rig import OFFLINE, run, write_points
from utils.records.collect import collect
from utils.records.selection import Cell, Column, select
from utils.report.tables import Style, build_further_tables, build_table, column_title, head_lines, shared_heads

PLAIN = Style(bold="<{}>", plus_minus="+-", star="*", minus="-", dash="none")


def final(class_il, task_il=90.0, **more):
    return {"A_f": class_il, **more}, {"A_f": task_il, **more}


def table_of(runs, metric="A_f"):
    return build_table(select(runs), metric)


def class_il(table, row, number=0):
    columns = [column for column in table.columns if column[1] == "class_il"]
    return table.entries[row, columns[number]]


def test_mean_spread_and_count():
    table = table_of([run("BN", seed, *final(value)) for seed, value in enumerate((1.0, 2.0, 3.0, 6.0))])
    entry = class_il(table, "BN")
    assert (entry.mean, entry.std, entry.num_seeds) == (3.0, pytest.approx(2.160246899), 4)
    assert entry.text(PLAIN, expected_seeds=4) == "<3.00 +- 2.16>"
    assert entry.text(PLAIN, expected_seeds=5) == "<3.00 +- 2.16> (n = 4)"


@pytest.mark.parametrize(("value", "text"), [(-1e-15, "<0.00>"), (-0.004, "<0.00>"), (-0.006, "<-0.01>")])
def test_what_rounds_to_zero_has_no_sign(value, text):
    assert class_il(table_of([run("BN", 0, {"A_f": 1.0, "F": value})], "F"), "BN").text(PLAIN, 1) == text


def test_rows_begin_with_the_baseline_and_end_with_strangers():
    table = table_of([run(norm, 0, *final(1.0)) for norm in ("zzz", "TBBN", "aaa", "AdaB2N", "BN")])
    assert table.rows == ("BN", "AdaB2N", "TBBN", "aaa", "zzz")


@pytest.mark.parametrize(("metric", "best"), [("A_f", "TBBN"), ("forgetting", "BN"), ("F", "BN")])
def test_best_depends_on_the_metric(metric, best):
    runs = [run(norm, 0, {"A_f": 1.0, metric: value}) for norm, value in (("BN", 10.0), ("TBBN", 20.0))]
    table = table_of(runs, metric)
    assert [row for row in table.rows if class_il(table, row).is_best] == [best]


def test_star_needs_the_adjusted_p():
    values = {"BN": (10.0, 11.0, 12.0), "TBBN": (30.0, 31.1, 32.0), "GN": (11.0, 13.0, 20.0)}
    runs = [run(norm, seed, *final(value, seed)) for norm, row in values.items() for seed, value in enumerate(row)]
    table = table_of(runs)
    assert class_il(table, "TBBN").p_holm == pytest.approx(class_il(table, "TBBN").p * 2)
    assert class_il(table, "TBBN").text(PLAIN, 3) == "<31.03 +- 1.00>*"
    assert "*" not in class_il(table, "GN").text(PLAIN, 3)
    assert class_il(table, "BN").p is None


def test_a_cell_without_a_figure_is_a_dash():
    table = table_of([run("BN", 0, *final(50.0)), run("GN", 0, None, state="diverged", reason="diverged")])
    assert class_il(table, "GN").text(PLAIN, 1) == "none"
    assert class_il(table, "GN").published_text(PLAIN) == ""


@pytest.mark.parametrize(
    ("ours", "text"), [(37.26, "38.46 (-1.20)"), (38.46, "38.46 (+0.00)"), (40.0, "38.46 (+1.54)")]
)
def test_published_figure_and_deviation(ours, text):
    entry = class_il(table_of([run("TBBN", 0, *final(ours, A=[1.0] * 10), **OFFLINE)]), "TBBN")
    assert entry.published_text(PLAIN) == text
    assert entry.deviation == pytest.approx(ours - 38.46)


def test_published_figures_are_class_il():
    table = table_of([run("TBBN", 0, *final(30.0, A=[1.0] * 10), **OFFLINE)])
    assert [table.entries["TBBN", column].published is None for column in table.columns] == [False, True]


def test_another_number_of_tasks_is_not_compared():
    assert class_il(table_of([run("TBBN", 0, *final(30.0, A=[1.0] * 5), **OFFLINE)]), "TBBN").published is None


def test_further_tables_lead_with_the_metrics_of_each_protocol():
    cells = select([run("BN", 0, *final(1.0)), run("BN", 0, *final(1.0), **OFFLINE)])
    tables = build_further_tables(cells)
    assert [(table.metric, {column[0][0] for column in table.columns}) for table in tables] == [
        ("A_a", {"seq-cifar100"}),
        ("F", {"seq-cifar100"}),
        ("A_l", {"seq-cifar100"}),
        ("forgetting", {"seq-digits"}),
    ]


def test_metrics_inside_the_stream_have_tables_where_runs_have_them(tmp_path):
    write_points(tmp_path, "BN", 0)
    tables = build_further_tables(select(collect(tmp_path, "group")))
    assert [table.metric for table in tables] == ["forgetting", "A_AUC", "min-ACC", "WC-ACC", "stability_gap"]
    (lowest,) = (table for table in tables if table.metric == "min-ACC")
    assert lowest.row("BN")[0].mean == pytest.approx(40)


def test_titles_name_what_tells_columns_apart():
    first = Column("d", "er", 5, 1)
    small = first._replace(compared=(("batch_size", 10), ("lr", 0.03)))
    assert column_title(first, [first]) == "d er 5"
    assert column_title(first, [first, first._replace(model="sgd", buffer_size=None)]) == "d er 5"
    assert column_title(small, [small, first]) == "d er 5 batch_size 10, lr 0.03"
    assert column_title(first, [first, first._replace(model="der", epochs=5)]) == "d er 5 epochs 1"
    assert column_title(first._replace(validation=0.1), [first]) == "d er 5 validation 0.1"
    assert column_title(first._replace(model="sgd", buffer_size=None), []) == "d sgd"


def test_a_test_that_stands_in_several_columns_is_corrected_for_once():
    values = {"BN": (10.0, 11.0, 12.0), "GN": (30.0, 31.1, 32.0)}
    runs = [run(norm, seed, *final(value, seed)) for norm, row in values.items() for seed, value in enumerate(row)]
    runs += [run("AdaB2N", seed, *final(20.0 + seed * k), kappa=k) for k in (0.4, 1.0) for seed in range(3)]
    table = table_of(runs)
    twice = [class_il(table, "GN", number) for number in (0, 1)]
    assert twice[0].p_holm == twice[1].p_holm == pytest.approx(twice[0].p * 3)
    assert [entry.mean for entry in twice] == [twice[0].mean] * 2
    assert table.num_tests == 3


def test_most_settings_of_a_row():
    table = build_table({Column(name, "er", 5, 1): {"X": Cell({}, number)} for name, number in (("a", 3), ("b", 7))})
    assert table.tried("X") == 7


def table_with(*columns):
    return build_table(select([run("BN", 0, {"A_f": 1.0}, **values) for values in columns]))


def spans(table):
    return [[(head.text, head.first, head.num_columns) for head in heads] for heads in shared_heads(head_lines(table))]


def test_a_line_is_shared_only_below_a_shared_line():
    table = table_with(*({"dataset": name, "buffer_size": 200} for name in "ab"), {"dataset": "b", "buffer_size": 500})
    assert spans(table) == [
        [("a", 0, 2), ("b", 2, 4)],
        [("er", 0, 2), ("er", 2, 4)],
        [("buffer 200", 0, 2), ("buffer 200", 2, 2), ("buffer 500", 4, 2)],
        [(title, place, 1) for place, title in enumerate(("Class-IL", "Task-IL") * 3)],
    ]


def test_lines_that_are_empty_everywhere_are_left_out_and_others_are_kept():
    assert head_lines(table_with({"buffer_size": None})) == [
        ("seq-digits", "er", "Class-IL"),
        ("seq-digits", "er", "Task-IL"),
    ]
    (first, *_, last) = head_lines(table_with({"buffer_size": None, "epochs": 1}, {"buffer_size": 200, "epochs": 50}))
    assert first == ("seq-digits", "er", "", "epochs 1", "Class-IL")
    assert last == ("seq-digits", "er", "buffer 200", "epochs 50", "Task-IL")


def test_a_table_without_columns_has_no_heads():
    assert spans(table_with()) == []


def test_part_of_a_table_keeps_its_tests():
    runs = [
        run(norm, seed, *final(50.0 + seed * step), dataset=dataset)
        for dataset in "ab"
        for norm, step in (("BN", 1), ("GN", 2))
        for seed in (0, 1)
    ]
    whole = table_of(runs)
    part = whole.narrow(column for column in whole.columns if column[0][0] == "a")
    assert [column[0][0] for column in part.columns] == ["a", "a"]
    assert part.entries["GN", part.columns[0]].p_holm == whole.entries["GN", part.columns[0]].p_holm


def test_a_metric_has_columns_of_the_scenarios_that_it_is_taken_in_alone():
    cells = select([run("BN", 0, {"A_f": 1.0, "A_AUC": 2.0})])
    assert [column.scenario for column in build_table(cells, "A_AUC").columns] == ["class_il"]
    assert [column.scenario for column in build_table(cells, "A_f").columns] == ["class_il", "task_il"]


@pytest.mark.parametrize(("streams", "title"), [([None, "split"], "Split Digits"), (["split", "gaussian"], "Digits")])
def test_only_what_is_split_is_called_so(streams, title):
    runs = [run("BN", 0, *final(50.0), **({} if stream is None else {"stream": stream})) for stream in streams]
    assert table_of(runs).published_names["seq-digits"] == title
