from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.utils.launch.rig import RESULT, STUDY, FakeEstimates
from utils.launch.grid import change
from utils.launch.job import CommonOptions, Data
from utils.launch.plan import make_plan
from utils.launch.summary import Cost, PlanSummary, cost_of, steps_in_words


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, (144,) * 10))


@pytest.fixture
def summarise(tmp_path):
    """The summary of a part of a small study."""

    def make(seconds=lambda job: None, num_parallel=2, num_steps=100, **typed):
        common = CommonOptions(tmp_path, "group", Path("data"))
        few = {"models": ("er",), "methods": ("BN", "AdaB2N")}
        few |= {"kappa": (0.1, 0.4, 1.0)} if "AdaB2N" in typed.get("methods", ("AdaB2N",)) else {}
        estimates = FakeEstimates(seconds, num_steps=lambda job: num_steps)
        plan = make_plan(change(STUDY, {**few, **typed}), {}, common)
        return PlanSummary(plan, common, estimates, num_parallel)

    return make


def line(summary, start):
    (found,) = [text.strip() for text in summary.lines() if text.strip().startswith(start)]
    return found


def finish(*jobs):
    for job in jobs:
        job.record.open()
        job.record.write_config({"values": job.config.values, "command": []})
        job.record.write_result(RESULT)
        job.record.close()


@pytest.mark.parametrize(
    ("typed", "settings", "then"),
    [
        ({}, "the test data (oracle): 1 cell of 3 settings, 6 runs per cell (seeds 0 1)", None),
        (
            {"search_seeds": (0,)},
            "the test data (oracle): 1 cell of 3 settings, 3 runs per cell (seed 0)",
            "1 run of the best settings",
        ),
        (
            {"selection": "validation", "models": ("er", "er_ace")},
            "held-out training data (validation, 10%): 2 cells of 3 settings, 6 runs per cell (seeds 0 1)",
            "4 runs of the best settings",
        ),
    ],
)
def test_search_and_its_budget_are_told(summarise, typed, settings, then):
    summary = summarise(**typed)
    assert line(summary, "search:") == f"search: settings are chosen on {settings}"
    assert [text for text in summary.lines() if "then:" in text] == ([f"  then: {then}"] if then else [])


def test_epochs_and_buffer_sizes_are_axes_too(summarise):
    summary = summarise(epochs=(1, 3), buffer_size=(100, 200))
    assert (line(summary, "epochs:"), line(summary, "buffer sizes:")) == ("epochs: 1 3", "buffer sizes: 100 200")
    assert not any(text.startswith("  buffer") for text in summarise(models=("sgd",), methods=("BN",)).lines())


def test_tasks_of_unequal_size_are_told(summarise):
    told = [text for text in summarise(n_tasks=(5, 3, 4)).lines() if text.startswith("  tasks:")]
    assert told == [
        "  tasks: seq-digits (split): 3 tasks of 4, 3, 3 classes",
        "  tasks: seq-digits (split): 4 tasks of 3, 3, 2, 2 classes",
    ]


def test_tasks_whose_sizes_are_drawn_are_told_by_seed(summarise):
    told = [text for text in summarise(stream=("si-blurry",)).lines() if text.startswith("  tasks:")]
    assert [text.split(" tasks of ")[0] for text in told] == [
        f"  tasks: seq-digits (si-blurry), seed {seed}: 5" for seed in (0, 1)
    ]


def test_seeds_that_draw_the_same_sizes_are_told_together(summarise):
    told = [
        text for text in summarise(stream=("si-blurry",), n_tasks=(4,), seeds=(0, 1, 2)).lines() if "tasks:" in text
    ]
    assert told == [
        "  tasks: seq-digits (si-blurry), seed 0 1: 4 tasks of 5, 1, 2, 2 classes",
        "  tasks: seq-digits (si-blurry), seed 2: 4 tasks of 4, 1, 4, 1 classes",
    ]


def test_one_run_is_no_runs(summarise):
    assert summarise(methods=("BN",), seeds=(0,)).lines()[0] == "1 run: 1 not run"


def test_a_plan_is_over_when_the_runs_that_follow_are(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.plan.best_setting", lambda runs: 1)
    typed = {"selection": "validation", "methods": ("AdaB2N",), "seeds": (0,)}
    finish(*summarise(**typed).jobs)
    summary = summarise(**typed)
    assert not summary.is_over
    finish(*summary.following)
    assert summary.is_over


def test_budgets_that_differ_are_a_range(summarise):
    summary = summarise(models=("er", "sgd"), lambd=(0.1, 1.0), seeds=(0,))
    assert "2 cells of 3 to 6 settings, 3 to 6 runs per cell" in line(summary, "search:")


def test_a_plan_without_a_search_tells_of_none(summarise):
    assert not any("settings" in text for text in summarise(methods=("BN",)).lines())


def test_what_is_known_of_the_best_is_listed_exactly(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.plan.best_setting", lambda runs: 1)
    typed = {"selection": "validation", "search_seeds": (0,)}
    before = summarise(**typed)
    assert (before.following, len(before.jobs)) == ((), 2 + 3)
    finish(*(job for job in before.jobs if job.config.nl == "AdaB2N"))
    summary = summarise(**typed)
    assert [(job.config.kappa, job.config.validation, job.config.seed) for job in summary.following] == [
        (0.4, 0.0, 0),
        (0.4, 0.0, 1),
    ]
    finish(summary.following[0])
    assert line(summary, "then:") == "then: 2 runs of the best settings, 2 of them known: 1 complete, 1 not run"
    assert line(summary, "seq-digits-er-200-AdaB2N-1ep:").endswith("kappa 0.4")
    commands = summary.commands()[-2:]
    for command, state, job in zip(commands, ("complete", "not run"), summary.following, strict=True):
        assert command.startswith(f"{state:9} python utils/main.py {' '.join(job.words)} --group group ")
    told = summary.as_json()
    assert (told["runs"], told["following"], len(told["following_jobs"])) == (5, 2, 2)
    assert told["searches"][0]["chosen"] == "kappa 0.4"


def test_runs_of_the_search_that_stand_in_the_table_too_are_not_listed_twice(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.plan.best_setting", lambda runs: 0)
    finish(*(job for job in summarise(search_seeds=(0,)).jobs if job.config.nl == "AdaB2N"))
    summary = summarise(search_seeds=(0,))
    assert [job.config.seed for job in summary.following] == [1]


@pytest.mark.parametrize(
    ("known", "slots", "text"),
    [
        ({}, 2, "time: unknown, as no similar run is complete; estimated once the first runs are under way"),
        # three settings and two runs of BN, and two more of the best setting: seven times an hour
        ({"BN": 3600}, 2, "time: about 3.5 hours with 2 at a time, from complete runs like 2 of these 7"),
        (
            {"BN": 60, "AdaB2N": 120},
            1,
            "time: about 11 minutes with 1 at a time, from complete runs like 5 of these 7",
        ),
        (
            {"BN": 1, "AdaB2N": 100},
            20,
            "time: about 100 seconds with 20 at a time, from complete runs like 5 of these 7",
        ),
    ],
)
def test_time_is_estimated_from_runs_that_are_complete(summarise, known, slots, text):
    typed = {"selection": "validation", "search_seeds": (0,)}
    summary = summarise(lambda job: known.get(job.config.nl), slots, **typed)
    assert text in (each.strip() for each in summary.lines())


def test_the_time_of_runs_that_share_gpus_is_that_of_runs_that_do_not(summarise):
    known = summarise(lambda job: 600.0, 4, methods=("BN",))
    summary = PlanSummary(known.plan, known.common, known.estimates, 4, shares_gpus=True)
    expected = "10 minutes with 4 at a time if those that share a GPU do not slow each other down, from complete runs"
    assert line(summary, "time:") == f"time: about {expected} like these"


def test_complete_runs_take_no_time(summarise):
    summary = summarise(lambda job: 600.0, 1, methods=("BN",))
    assert line(summary, "time:") == "time: about 20 minutes with 1 at a time, from complete runs like these"
    finish(summary.jobs[0])
    assert summary.as_json()["estimated_seconds"] == 600.0
    finish(summary.jobs[1])
    assert not any("time:" in text for text in summary.lines())
    assert summary.as_json()["estimated_seconds"] == 0.0


def test_work_that_is_left_is_told_in_training_steps(summarise):
    summary = summarise(methods=("BN",))
    assert line(summary, "work:") == "work: 200 training steps"
    finish(summary.jobs[0])
    assert line(summary, "work:") == "work: 100 training steps"
    assert summary.as_json()["training_steps"] == 100


def test_runs_that_follow_a_search_are_work_too(summarise):
    assert line(summarise(search_seeds=(0,)), "work:") == "work: about 600 training steps"


# -- Cost -------------------------------------------------------------------------------------------------------------


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
    assert steps_in_words(num_steps, is_exact) == words


@pytest.mark.parametrize(
    ("known", "rough", "line"),
    [
        ([], [], "time: unknown, as no similar run is complete; estimated once the first runs are under way"),
        ([600] * 4, [], "time: about 20 minutes with 2 at a time, from complete runs like these"),
        ([600] * 2, [], "time: about 20 minutes with 2 at a time, from complete runs like 2 of these 4"),
        (
            [],
            [600],
            "time: about 20 minutes with 2 at a time, rough: from the speed of other runs on this machine",
        ),
        (
            [600],
            [1800],
            "time: about 40 minutes with 2 at a time, from complete runs like 1 of these 4; rough: from the speed "
            "of other runs on this machine",
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


def test_unknown_steps_are_left_out():
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


def test_steps_are_unknown_as_long_as_no_run_is_known():
    assert cost_of([], 2, estimates({})).num_steps is None


def test_a_plan_that_is_done_has_no_steps_left():
    assert cost_of([], 0, estimates({})).num_steps == 0


def test_steps_of_retuning_are_shown_beside_those_of_training():
    told = cost_of(["a", "b"], 2, estimates({"a": 100, "b": 200}, retuning={"a": 1000, "b": 0}))
    assert told.num_retuning_steps == 2000
    assert told.lines(1)[0] == "work: about 600 training steps and about 2,000 steps of re-tuning norm layers"
    assert "re-tuning" not in cost_of(["a"], 0, estimates({"a": 100})).lines(1)[0]
