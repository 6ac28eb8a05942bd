import pytest

from tests.utils.report.rig import ONLINE, write_record
from utils.errors import UserError
from utils.report.groups import check_metric, figure, places_text, plain_value, read_groups, signed


@pytest.fixture
def results(tmp_path):
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
def test_groups_that_cannot_be_compared(results, names, message):
    with pytest.raises(UserError, match=message) as caught:
        read_groups(results, names)
    assert "\n" not in str(caught.value)


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match="--results_dir"):
        read_groups(tmp_path / "none", ["first"])


def test_groups_are_read_in_their_order(results):
    assert [(group.name, len(group.runs)) for group in read_groups(results, ["first/debug", "first"])] == [
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
def test_metrics_that_do_not_exist(results, metric, message):
    with pytest.raises(UserError, match=message):
        check_metric(read_groups(results, ["first"])[0].runs, metric)


def test_metric_that_exists(results):
    check_metric(read_groups(results, ["first"])[0].runs, "forgetting")


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
