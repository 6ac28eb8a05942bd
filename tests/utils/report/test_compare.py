"""The command, from records on the disk to the file."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.report.rig import ONLINE, write_record
from utils.config.registry import ROOT
from utils.errors import UserError
from utils.launch.cli import main
from utils.report.compare import (
    check_metric,
    figure,
    file_name,
    make_comparison,
    places_text,
    plain_value,
    read_groups,
    signed,
)

RECORDS = Path(__file__).parent / "golden" / "records"


@pytest.fixture
def results(tmp_path):
    shutil.copytree(RECORDS, tmp_path / "results")
    shutil.copytree(RECORDS / "study", tmp_path / "results" / "again")
    return tmp_path / "results"


def test_two_groups_are_printed_and_written(results, capsys):
    assert main(["compare", "study", "again", "--results_dir", str(results)]) == 0
    path = results / "study" / "compare-again.md"
    written = path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{written}\n{path}\n"
    assert "| norm | scenario | study | again | again − study | p (Holm) |" in written
    assert not list((results / "again").glob("compare*"))


def test_equal_groups_differ_in_nothing(results):
    text, _ = make_comparison(results, ["study", "again"])
    assert "differ" not in text.replace("Differences", "")
    assert "+0.00" in text
    assert "In some groups only" not in text


def test_one_group_is_held_against_the_literature(results, capsys):
    assert main(["compare", "offline", "--results_dir", str(results), "--metric", "A_f"]) == 0
    shown = capsys.readouterr().out
    assert "# offline and the published figures" in shown
    assert "| TBBN | 38.75 ± 0.35 (2) | 38.46 | +0.29 |" in shown


def test_comparing_again_changes_nothing(results):
    first = make_comparison(results, ["study", "again"])
    assert make_comparison(results, ["study", "again"]) == first


def test_comparisons_of_a_group_do_not_overwrite_each_other(results):
    for words in (["study"], ["study", "again"], ["study", "--metric", "forgetting"], ["study", "again", "searched"]):
        assert main(["compare", *words, "--results_dir", str(results)]) == 0
    assert sorted(path.name for path in (results / "study").glob("compare*")) == [
        *("compare-again+searched.md", "compare-again.md", "compare-published.forgetting.md", "compare-published.md")
    ]


def test_every_comparison_has_a_name_of_its_own_that_a_disk_can_hold():
    groups = [
        "a",
        "b",
        "a-b",
        "a+b",
        "a/b",
        "a.forgetting",
        "published",
        "a~b",
        "Ünïcode",
        "\ud800",
        "..",
        " ",
        "x" * 300,
    ]
    asked = [[], *([name] for name in groups), ["a", "b"], ["b", "a"], ["x" * 300, "a"], ["x" * 300, "b"]]
    names = [file_name(others, metric) for others in asked for metric in ("A_f", "forgetting")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"compare-[\w+~-]+(\.forgetting)?\.md", name, re.ASCII) for name in names)
    assert max(map(len, names)) < 200


def test_a_comparison_is_shown_where_it_cannot_be_written(results, capsys):
    (results / "offline" / "compare-published.md" / "in the way").mkdir(parents=True)
    assert main(["compare", "offline", "--results_dir", str(results)]) == 5
    shown = capsys.readouterr()
    assert "| TBBN | 38.75 ± 0.35 (2) | 38.46 | +0.29 |" in shown.out
    assert shown.err.startswith("error: cannot write ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stdy"], "Did you mean 'study'?"),
        (["study", "--metric", "a_F"], "Did you mean 'A_f'?"),
        (["study", "study"], "named twice"),
        ([], "GROUP"),
        (["study", "--speed", "9"], "--speed"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(results, capsys, words, message):
    assert main(["compare", *words, "--results_dir", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_no_torch_is_imported(results):
    script = (
        "import sys\nfrom utils.launch.cli import main\n"
        f"assert main(['compare', 'offline', '--results_dir', {str(results)!r}]) == 0\n"
        "assert not {'torch', 'pandas', 'GPUtil', 'matplotlib', 'wandb'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture
def small(tmp_path):
    write_record(tmp_path / "first" / "a", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    write_record(tmp_path / "open" / "a", {**ONLINE, "nl": "BN", "seed": 0})
    write_record(tmp_path / "open" / "b", {**ONLINE, "nl": "BN", "seed": 1}, failure="diverged")
    write_record(tmp_path / "first" / "debug" / "a", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["frst"], r"unknown group 'frst' .*Did you mean 'first'\? Known: first, first/debug, open\."),
        (["first", "open"], "'open' has no complete run to compare .1 diverged, 1 started."),
        (["empty"], "'empty' has no complete run to compare .no record."),
        (["first", "first/"], "'first' is named twice"),
    ],
)
def test_groups_that_cannot_be_compared(small, names, message):
    with pytest.raises(UserError, match=message) as caught:
        read_groups(small, names)
    assert "\n" not in str(caught.value)


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="--results_dir"):
        read_groups(tmp_path / "none", ["first"])


def test_groups_are_read_in_their_order(small):
    assert [(group.name, len(group.runs)) for group in read_groups(small, ["first/debug", "first"])] == [
        ("first/debug", 1),
        ("first", 1),
    ]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("a_f", "Did you mean 'A_f'"),
        ("forgeting", "Did you mean 'forgetting'"),
        ("A", "unknown --metric 'A'.*Known: A_f, A_a"),
        ("speed", "Known: A_f, A_a"),
        ("FWT", "measured in no run; a run with --ignore_other_metrics 0"),
    ],
)
def test_metrics_that_do_not_exist(small, metric, message):
    with pytest.raises(UserError, match=message):
        check_metric(read_groups(small, ["first"])[0].runs, metric)


def test_metric_that_exists(small):
    check_metric(read_groups(small, ["first"])[0].runs, "forgetting")


@pytest.mark.parametrize(
    ("values", "text"),
    [({}, "–"), ({3: 1.234}, "1.23 (1)"), ({0: 1.0, 5: 3.0}, "2.00 ± 1.41 (2)"), ({0: -1.0}, "−1.00 (1)")],
)
def test_figures(values, text):
    assert figure(values) == text


@pytest.mark.parametrize(("points", "text"), [(1.234, "+1.23"), (-1.2, "−1.20"), (-0.001, "+0.00"), (0.0, "+0.00")])
def test_differences_have_a_sign(points, text):
    assert signed(points) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        ([80, 120], "80,120"),
        ((), "empty"),
        (None, "none"),
        (False, "false"),
        ("", "empty"),
    ],
)
def test_values_are_written_as_one_types_them(value, text):
    assert plain_value(value) == text


def test_cells_in_words():
    every = [("d er 5", "BN"), ("d er 5", "GN"), ("d der 5", "BN")]
    assert places_text(reversed(every), every) == "everywhere"
    assert places_text([every[1], every[2], every[0]], [*every, ("x", "BN")]) == "d der 5: BN; d er 5: BN, GN"
