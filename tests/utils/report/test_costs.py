import json

from tests.utils.report.rig import ONLINE, write_record
from utils.records.collect import collect
from utils.records.selection import select
from utils.report import write_report
from utils.report.costs import build_costs
from utils.report.report import Report, ReportOptions


def write_cost(root, norm, seed=0, cost=(100, 220, 200), seconds=3.0, **values):
    """A record of a run on so many images, with as many rows forward and back; none of them if None."""
    folder = root / "group" / f"{norm}-{seed}-{values}"
    write_record(folder, {**ONLINE, "nl": norm, "seed": seed, **values}, [40, 50])
    path = folder / "result.json"
    result = json.loads(path.read_text()) | {"timings": {"training_seconds": seconds}}
    if cost is not None:
        result["cost"] = dict(zip(("images", "forward_rows", "backward_rows"), cost, strict=True))
    path.write_text(json.dumps(result))


def costs_of(root, **more):
    return build_costs(select(collect(root, "group")), **more)


def test_a_backward_pass_counts_as_two_forward_passes(tmp_path):
    write_cost(tmp_path, "BN")
    found = costs_of(tmp_path)
    assert found.titles[2:] == ("Class-IL A_f", "Task-IL A_f", "forward-equivalents per image", "rows", "seconds")
    assert found.rows == (("seq-digits er 200", "BN", "45.00", "45.00", "6.20", "200", "3.0"),)


def test_seeds_are_averaged_and_columns_stand_below_each_other(tmp_path):
    write_cost(tmp_path, "GN", model="sgd", cost=(100, 100, 100))
    write_cost(tmp_path, "BN", 0, seconds=1.0)
    write_cost(tmp_path, "BN", 1, cost=(100, 3000, 3000))
    rows = costs_of(tmp_path, scenarios=["class_il"]).rows
    assert [row[:2] for row in rows] == [("seq-digits er 200", "BN"), ("seq-digits sgd 200", "GN")]
    assert rows[0][2:] == ("45.00 ± 0.00", f"{(6.2 + 90) / 2:.2f}", "1,600", "2.0")
    assert rows[1][3] == "3.00"


def test_a_metric_below_zero_has_the_minus_of_the_other_tables(tmp_path):
    write_cost(tmp_path, "BN")
    assert costs_of(tmp_path, metric="BWT", scenarios=["class_il"]).rows[0][2] == "−50.00"
    (row,) = Report(tmp_path, "group", ReportOptions(metric="BWT", with_costs=True)).others[0].rows
    assert row[2] == "−50.00"
    list(write_report(Report(tmp_path, "group", ReportOptions(metric="BWT"))))
    assert "-50.00" not in (tmp_path / "group" / "report.html").read_text()


def test_records_that_lack_it_have_a_dash(tmp_path):
    write_cost(tmp_path, "BN", cost=None)
    assert costs_of(tmp_path) is None
    write_cost(tmp_path, "GN")
    assert [row[4:] for row in costs_of(tmp_path).rows] == [("–", "–", "3.0"), ("6.20", "200", "3.0")]


def test_it_stands_below_the_table_where_it_is_asked_for_and_always_in_the_page(tmp_path):
    write_cost(tmp_path, "BN")
    list(write_report(Report(tmp_path, "group")))
    assert "Cost of training" not in (tmp_path / "group" / "table.md").read_text()
    assert "Cost of training" in (tmp_path / "group" / "report.html").read_text()
    assert "forward_equivalents_per_image" in (tmp_path / "group" / "runs.csv").read_text()
    assert (
        "## Cost of training\n\n| column | norm |" in Report(tmp_path, "group", ReportOptions(with_costs=True)).markdown
    )


def test_the_page_names_what_cost_something_as_papers_do(tmp_path):
    write_cost(tmp_path, "AdaB2N")
    (costs,) = Report(tmp_path, "group").others_of_page
    assert costs.rows[0][:2] == ("Split Digits ER 200", "AdaB²N")
    (tmp_path / "names.json").write_text('{"er": "Replay"}')
    (costs,) = Report(tmp_path, "group", ReportOptions(names=tmp_path / "names.json", with_costs=True)).others
    assert costs.rows[0][:2] == ("seq-digits Replay 200", "AdaB2N")
