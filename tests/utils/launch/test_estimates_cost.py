from types import SimpleNamespace

import pytest

from utils.launch.estimates import Cost, cost_of, count_in_words


def cost(num_open=4, num_steps=400, is_exact=True, known=(), rough=()):
    return Cost(num_open, num_steps, is_exact, tuple(known), tuple(rough))


@pytest.mark.parametrize(
    ("num_steps", "is_exact", "words"),
    [
        (1, True, "1 training step"),
        (17_416, True, "17,416 training steps"),
        (17_416, False, "about 17,400 training steps"),
        (146, False, "about 146 training steps"),
        (999_999, True, "999,999 training steps"),
        (999_999, False, "about 1 million training steps"),
        (1_316_400, True, "about 1.32 million training steps"),
        (123_456_789, True, "about 123 million training steps"),
    ],
)
def test_steps_in_words(num_steps, is_exact, words):
    assert count_in_words(num_steps, is_exact) == words


@pytest.mark.parametrize(
    ("known", "rough", "line"),
    [
        ([], [], "time: no run like these is complete yet; it is estimated once the first ones are under way"),
        ([600] * 4, [], "estimated 20 minutes on 2 at a time, from complete runs like these"),
        ([600] * 2, [], "estimated 20 minutes on 2 at a time, from complete runs like 2 of these 4"),
        ([], [600], "estimated 20 minutes on 2 at a time, rough: from the speed of other runs on this machine"),
        (
            [600],
            [1800],
            "estimated 40 minutes on 2 at a time, from complete runs like 1 of these 4; rough: from the speed of other "
            "runs on this machine",
        ),
    ],
)
def test_where_the_time_comes_from_is_told(known, rough, line):
    assert cost(known=known, rough=rough).lines(2) == ["work: 400 training steps", line]


def test_the_longest_run_is_not_shared():
    assert cost(known=[10, 100]).seconds(8) == 100


def test_nothing_to_do_costs_nothing():
    nothing = cost(num_open=0, num_steps=0)
    assert (nothing.lines(2), nothing.seconds(2)) == ([], 0.0)


def test_steps_that_cannot_be_told_are_left_out():
    assert [line.split(":")[0] for line in cost(num_steps=None).lines(2)] == ["time"]


def estimates(steps, seconds=None, rough=None, are_exact=True, retuning=None):
    of_retuning = (lambda job: 0) if retuning is None else retuning.get
    return SimpleNamespace(
        steps=SimpleNamespace(of=steps.get, of_retuning=of_retuning, are_exact=lambda job: are_exact),
        seconds=(seconds or {}).get,
        rough_seconds=(rough or {}).get,
    )


def test_runs_that_follow_count_as_the_mean_of_the_others():
    told = cost_of(["a", "b"], 1, estimates({"a": 100, "b": 200}, {"a": 5.0}, {"a": 7.0, "b": 8.0}))
    assert told == Cost(3, 450, is_exact=False, known=(5.0,), rough=(8.0,))


def test_steps_are_exact_if_those_of_every_run_are():
    assert cost_of(["a"], 0, estimates({"a": 100})).is_exact
    assert not cost_of(["a"], 0, estimates({"a": 100}, are_exact=False)).is_exact


def test_a_run_whose_steps_cannot_be_told_hides_those_of_all():
    assert cost_of(["a", "b"], 0, estimates({"a": 100})).num_steps is None


def test_a_plan_that_is_done_has_no_steps_left():
    assert cost_of([], 0, estimates({})).num_steps == 0


def test_steps_of_retuning_are_told_beside_those_of_training():
    told = cost_of(["a", "b"], 2, estimates({"a": 100, "b": 200}, retuning={"a": 1000, "b": 0}))
    assert told.num_retuning_steps == 2000
    assert told.lines(1)[0] == "work: about 600 training steps and about 2,000 steps of re-tuning norm layers"
    assert cost_of(["a"], 0, estimates({"a": 100}, retuning={})).num_retuning_steps is None
    assert "re-tuning" not in cost_of(["a"], 0, estimates({"a": 100})).lines(1)[0]
