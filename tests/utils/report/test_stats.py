import pytest
from scipy.stats import ttest_rel

from utils.report.stats import holm, mean_and_std, mean_text, paired_p, signed


def test_mean_and_sample_standard_deviation():
    assert mean_and_std([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(2.160246899))
    assert mean_and_std([4.0]) == (4.0, None)
    assert mean_and_std([]) == (None, None)


def test_paired_test_over_common_seeds():
    # Differences 1, 2, 3: t = 2 / (1 / √3) = 3.4641 with 2 degrees of freedom.
    first, second = {0: 11.0, 1: 12.0, 2: 13.0, 7: 99.0}, {0: 10.0, 1: 10.0, 2: 10.0, 8: 0.0}
    assert paired_p(first, second) == pytest.approx(0.0741799)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: 1.0}, {0: 2.0}),
        ({0: 1.0}, {1: 2.0}),
        ({0: 1.0, 1: 2.0},) * 2,
        ({0: 75.3, 1: 81.1}, {0: 70.1, 1: 75.9}),  # 5.2 twice, but for the last bits
    ],
)
def test_no_test_where_there_is_nothing_to_test(first, second):
    assert paired_p(first, second) is None


def test_holm_steps_down_and_stays_monotone():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize("number", [2, 3, 10])
def test_p_is_that_of_scipys_whole_test(number):
    first = {seed: 60 + 7 * seed % 5 for seed in range(number)}
    second = {seed: 58 + 3 * seed % 4 for seed in range(number)}
    values = [[each[seed] for seed in range(number)] for each in (first, second)]
    assert paired_p(first, second) == pytest.approx(ttest_rel(*values).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "–"),
        ({3: 1.234}, "1.23 (1)"),
        ({0: 1.0, 5: 3.0}, "2.00 ± 1.41 (2)"),
        ({0: -1.0}, "−1.00 (1)"),
        ({0: -1e-15}, "0.00 (1)"),
    ],
)
def test_figures(values, text):
    assert mean_text(values) == text


@pytest.mark.parametrize(("points", "text"), [(1.234, "+1.23"), (-1.2, "−1.20"), (-0.001, "+0.00"), (0.0, "+0.00")])
def test_differences_have_a_sign(points, text):
    assert signed(points) == text
