"""Two groups side by side; the numbers are those of the definition, worked out here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from tests.utils.report.rig import ONLINE, run, write_record
from utils.config.registry import ROOT
from utils.errors import UserError
from utils.launch.cli import main
from utils.records.collect import read_run
from utils.records.ledger import Axes
from utils.records.selection import select
from utils.report import make_comparison
from utils.report.compare_groups import Group, cells_text, match_columns, plain_value, read_groups, to_markdown

RECORDS = Path(__file__).parent / "golden" / "records"

FIRST = {0: 50.0, 1: 52.0, 2: 57.0}
OTHER = {0: 51.0, 1: 54.5, 2: 60.0}


def runs_of(values, norm="BN", **options):
    return [run(norm, seed, {"A_f": value}, {"A_f": 90.0}, **options) for seed, value in values.items()]


def group(name, *runs, axes=None):
    flat = [each for found in runs for each in found]
    return Group(name, flat, select(flat, axes), axes or Axes())


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def section(text, title):
    return text.partition(f"## {title}\n\n")[2].partition("\n\n")[0].splitlines()


def test_figures_differences_and_paired_tests_stand_side_by_side():
    text = to_markdown([group("a", runs_of(FIRST)), group("b", runs_of(OTHER))], "A_f")
    p = ttest_rel(list(OTHER.values()), list(FIRST.values())).pvalue
    expected = f"| BN | Class-IL | 53.00 ± 3.61 (3) | 55.17 ± 4.54 (3) | +2.17 | {p:.2g} |"
    assert lines_of(text, "| BN | Class-IL") == [expected]
    assert lines_of(text, "| norm") == ["| norm | scenario | a | b | b − a | p (Holm) |"]
    assert "the one test in this comparison" in text
    assert lines_of(text, "| BN | Task-IL") == ["| BN | Task-IL | 90.00 ± 0.00 (3) | 90.00 ± 0.00 (3) | +0.00 | – |"]


def test_p_is_adjusted_over_all_tests_of_the_comparison():
    more = {seed: value + 10 + seed for seed, value in OTHER.items()}
    first = group("a", runs_of(FIRST), runs_of(FIRST, "GN"))
    other = group("b", runs_of(OTHER), runs_of(more, "GN"))
    raw = {
        norm: ttest_rel(list(values.values()), list(FIRST.values())).pvalue
        for norm, values in (("BN", OTHER), ("GN", more))
    }
    text = to_markdown([first, other], "A_f")
    small, large = sorted(raw, key=raw.get)
    adjusted = {small: 2 * raw[small], large: max(2 * raw[small], raw[large])}
    for norm, p in adjusted.items():
        assert lines_of(text, f"| {norm} | Class-IL")[0].endswith(f" {p:.2g} |")
    assert "for the 2 tests in this comparison" in text


def test_a_layer_that_stands_in_several_columns_alike_is_tested_once():
    axes = Axes(compared=("kappa",))
    groups = []
    for name, values in (("a", FIRST), ("b", OTHER)):
        compared = [runs_of({0: 60.0, 1: 61.0}, "AdaB2N", kappa=kappa) for kappa in (0.1, 0.4)]
        groups.append(group(name, runs_of(values), *compared, axes=axes))
    p = ttest_rel(list(OTHER.values()), list(FIRST.values())).pvalue
    text = to_markdown(groups, "A_f")
    assert [line.endswith(f" {p:.2g} |") for line in lines_of(text, "| BN | Class-IL")] == [True, True]
    assert "the one test in this comparison" in text


def test_differences_are_over_common_seeds():
    other = {1: 54.5, 2: 60.0, 9: 99.0}
    text = to_markdown([group("a", runs_of(FIRST)), group("b", runs_of(other))], "A_f")
    (line,) = lines_of(text, "| BN | Class-IL")
    assert f"| {(2.5 + 3.0) / 2:+.2f} |" in line


def test_without_a_common_seed_the_means_differ_and_nothing_is_tested():
    text = to_markdown([group("a", runs_of({0: 50.0, 1: 52.0})), group("b", runs_of({2: 40.0, 3: 44.0}))], "A_f")
    (line,) = lines_of(text, "| BN | Class-IL")
    assert line.endswith("| −9.00 (no common seed) | – |")
    assert "t-test" not in text


def test_three_groups_are_held_against_the_first():
    groups = [group(name, runs_of({0: value})) for name, value in (("a", 10.0), ("b", 11.0), ("c", 9.5))]
    text = to_markdown(groups, "A_f")
    (line,) = lines_of(text, "| BN | Class-IL")
    assert line.endswith("| 10.00 (1) | 11.00 (1) | 9.50 (1) | +1.00 | – | −0.50 | – |")


def test_options_that_differ_are_named_with_their_cells():
    first = group("a", runs_of(FIRST, lr=0.03, milestones=[3, 5]), runs_of(FIRST, "GN", lr=0.03, num_groups=8))
    other = group("b", runs_of(OTHER, lr=0.1, milestones=[3, 5]), runs_of(OTHER, "GN", lr=0.1, num_groups=4))
    assert section(to_markdown([first, other], "A_f"), "Options that differ") == [
        "- lr: 0.03 in a, 0.1 in b (everywhere)",
        "- num_groups: 8 in a, 4 in b (seq-digits er 200: GN)",
    ]


def test_options_of_one_group_only_and_the_number_of_tasks_are_named():
    first = group("a", [run("BN", 0, {"A_f": 1.0, "A": [1.0] * 5}, kappa=0.4)])
    other = group("b", [run("BN", 0, {"A_f": 1.0, "A": [1.0] * 10})])
    assert section(to_markdown([first, other], "A_f"), "Options that differ") == [
        "- kappa: 0.4 in a, not set in b (everywhere)",
        "- num_tasks: 5 in a, 10 in b (everywhere)",
    ]


def test_a_group_without_the_cell_does_not_make_its_options_differ():
    lacking = group("c", runs_of({0: 1.0}, "GN", lr=0.1))
    text = to_markdown([group("a", runs_of(FIRST, lr=0.1)), group("b", runs_of(OTHER, lr=0.1)), lacking], "A_f")
    assert "Options that differ" not in text
    assert section(text, "Only in some groups") == [
        "- a and b: seq-digits er 200: BN",
        "- c: seq-digits er 200: GN",
    ]


def test_what_the_setting_was_chosen_from_is_named():
    first = group("a", runs_of(FIRST, kappa=0.4), runs_of(OTHER, kappa=1.0), axes=Axes(("kappa",)))
    text = to_markdown([first, group("b", runs_of(OTHER, kappa=1.0))], "A_f")
    differing = section(text, "Options that differ")
    assert differing == ["- selection: oracle of 2 settings in a, no search in b (everywhere)"]


def test_places_notes_and_seeds_are_no_difference():
    first = group("a", runs_of(FIRST, notes="x", device="cpu", results_dir="here", preset="demo"))
    other = group("b", runs_of({0: 1.0}, notes="y", device="cuda", results_dir="there"))
    assert "Options that differ" not in to_markdown([first, other], "A_f")


def test_columns_that_differ_in_their_batches_are_compared_all_the_same():
    first, other = group("a", runs_of(FIRST, batch_size=10)), group("b", runs_of(OTHER, batch_size=32))
    text = to_markdown([first, other], "A_f")
    assert len(lines_of(text, "| BN | Class-IL")) == 1
    assert section(text, "Options that differ") == ["- batch_size: 10 in a, 32 in b (everywhere)"]
    assert "Only in some groups" not in text


def test_columns_are_not_matched_where_that_could_be_done_in_two_ways():
    first = group("a", runs_of(FIRST, batch_size=10), runs_of(FIRST, batch_size=20))
    other = group("b", runs_of(OTHER, batch_size=32))
    assert [list(row.columns) for row in match_columns([first, other])] == [["b"], ["a"], ["a"]]


def test_an_equal_column_is_matched_first():
    first = group("a", runs_of(FIRST, epochs=1), runs_of(FIRST, epochs=50))
    other = group("b", runs_of(OTHER, epochs=1))
    assert sorted(list(row.columns) for row in match_columns([first, other])) == [["a"], ["a", "b"]]


def test_what_exists_in_one_only_is_listed():
    first = group("a", runs_of(FIRST), runs_of(FIRST, "GN"), runs_of(FIRST, model="der"))
    other = group("b", runs_of(OTHER), runs_of(OTHER, "TBBN"))
    text = to_markdown([first, other], "A_f")
    assert section(text, "Only in some groups") == [
        "- a: seq-digits der 200: BN; seq-digits er 200: GN",
        "- b: seq-digits er 200: TBBN",
    ]
    assert not lines_of(text, "| GN")


def test_incomplete_cells_are_explained():
    diverged = [run("GN", 0, None, state="diverged", reason="diverged")]
    first, other = group("a", runs_of(FIRST), diverged), group("b", runs_of(OTHER), runs_of(OTHER, "GN"))
    text = to_markdown([first, other], "A_f")
    assert lines_of(text, "| GN | Class-IL") == ["| GN | Class-IL | – | 55.17 ± 4.54 (3) | – | – |"]
    assert section(text, "Missing") == ["- a, seq-digits er 200, GN: seed 0 diverged"]


@pytest.fixture
def written(tmp_path):
    def write(name, environment, data="d" * 64, **more):
        folder = tmp_path / name / "run"
        write_record(folder, {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
        config = json.loads((folder / "config.json").read_text()) | {"environment": environment, "data": data} | more
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return group(name, [read_run(folder)])

    return write


def test_data_and_versions_that_differ_are_named(written):
    same = {"device": "cpu", "cores": 4}
    first = written("a", {"torch": "2.1.0", **same})
    other = written("b", {"torch": "2.15.0", **same, "cores": 8}, data="e" * 64)
    assert section(to_markdown([first, other], "A_f"), "Data, code and hardware that differ") == [
        "- torch: 2.1.0 in a, 2.15.0 in b",
        "- data of seq-digits (fingerprint): dddddddddd in a, eeeeeeeeee in b",
    ]


def test_every_version_that_a_run_was_trained_with_counts(written):
    environments = [{"torch": "2.1.0"}, {"torch": "2.2.0"}]
    first, other = written("a", environments[0]), written("b", environments[1], environments=environments)
    differing = section(to_markdown([first, other], "A_f"), "Data, code and hardware that differ")
    assert differing == ["- torch: 2.1.0 in a, 2.1.0 or 2.2.0 in b"]


@pytest.mark.parametrize("environment", [None, {}, {"torch": None}])
def test_unknown_versions_are_no_difference(written, environment):
    assert "machines" not in to_markdown([written("a", {"torch": "2.1.0"}), written("b", environment)], "A_f")


def test_names_stay_text():
    text = to_markdown([group("a|<b>", runs_of(FIRST)), group("c", runs_of(OTHER))], "A_f")
    assert r"a\|\<b>" in text
    assert "a|<b>" not in text


def test_scenarios_without_a_figure_have_no_line():
    first, other = (group(name, [run("BN", 0, {"A_f": 1.0, "AAA": 5.0}, {"A_f": 1.0})]) for name in "ab")
    text = to_markdown([first, other], "AAA")
    assert lines_of(text, "| BN | Class-IL")
    assert not lines_of(text, "| BN | Task-IL")


# -- The groups -------------------------------------------------------------------------------------------------------


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
        (["frst"], r"unknown group in \S+ 'frst'\. Did you mean 'first'\? Known: first, first/debug, open\."),
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


# -- In words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        ([80, 120], "80,120"),
        ((), "empty"),
        (None, "none"),
        (False, "0"),
        ("", "empty"),
    ],
)
def test_values_are_written_as_one_types_them(value, text):
    assert plain_value(value) == text


def test_cells_in_words():
    every = [("d er 5", "BN"), ("d er 5", "GN"), ("d der 5", "BN")]
    assert cells_text(reversed(every), every) == "everywhere"
    assert cells_text([every[1], every[2], every[0]], [*every, ("x", "BN")]) == "d der 5: BN; d er 5: BN, GN"


# -- The command, from records on the disk to the file ----------------------------------------------------------------


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
    assert "Only in some groups" not in text


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
