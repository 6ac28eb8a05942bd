from tests.utils.report.rig import run
from utils.records.selection import select
from utils.report.heads import head_lines, shared_heads
from utils.report.tables import build_table


def table_of(*columns):
    return build_table(select([run("BN", 0, {"A_f": 1.0}, **values) for values in columns]))


def spans(table):
    return [[(head.text, head.first, head.num_columns) for head in heads] for heads in shared_heads(head_lines(table))]


def test_a_line_is_shared_only_below_a_shared_line():
    table = table_of(*({"dataset": name, "buffer_size": 200} for name in "ab"), {"dataset": "b", "buffer_size": 500})
    assert spans(table) == [
        [("a", 0, 2), ("b", 2, 4)],
        [("er", 0, 2), ("er", 2, 4)],
        [("buffer 200", 0, 2), ("buffer 200", 2, 2), ("buffer 500", 4, 2)],
        [(title, place, 1) for place, title in enumerate(("Class-IL", "Task-IL") * 3)],
    ]


def test_lines_that_are_empty_everywhere_are_left_out_and_others_are_kept():
    assert head_lines(table_of({"buffer_size": None})) == [
        ("seq-digits", "er", "Class-IL"),
        ("seq-digits", "er", "Task-IL"),
    ]
    (first, *_, last) = head_lines(table_of({"buffer_size": None, "epochs": 1}, {"buffer_size": 200, "epochs": 50}))
    assert first == ("seq-digits", "er", "", "epochs 1", "Class-IL")
    assert last == ("seq-digits", "er", "buffer 200", "epochs 50", "Task-IL")


def test_a_table_without_columns_has_no_heads():
    assert spans(table_of()) == []
