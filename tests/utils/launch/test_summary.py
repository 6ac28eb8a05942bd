from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.utils.launch.rig import RESULT
from utils.launch.data import Data
from utils.launch.grid import change, find_grid
from utils.launch.plan import Where, make_plan
from utils.launch.summary import Summary


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))


@pytest.fixture
def summarise(tmp_path):
    """The summary of a part of the demo."""

    def make(seconds=lambda job: None, num_places=2, num_steps=100, **typed):
        where = Where(tmp_path, "group", Path("data"))
        few = {"models": ("er",), "methods": ("BN", "AdaB2N")}
        few |= {"kappa": (0.1, 0.4, 1.0)} if "AdaB2N" in typed.get("methods", ("AdaB2N",)) else {}
        steps = SimpleNamespace(of=lambda job: num_steps, of_retuning=lambda job: 0, are_exact=lambda job: True)
        estimates = SimpleNamespace(seconds=seconds, rough_seconds=lambda job: None, steps=steps)
        return Summary(make_plan(change(find_grid("demo"), {**few, **typed}), {}, where), where, estimates, num_places)

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
        ({}, "the data they are tested on (oracle): 1 cell of 3 settings, 6 runs per cell (seeds 0 1)", None),
        (
            {"search_seeds": (0,)},
            "the data they are tested on (oracle): 1 cell of 3 settings, 3 runs per cell (seed 0)",
            "1 run of the best settings",
        ),
        (
            {"selection": "validation", "models": ("er", "er_ace")},
            "data held out of training (validation, 10%): 2 cells of 3 settings, 6 runs per cell (seeds 0 1)",
            "4 runs of the best settings",
        ),
    ],
)
def test_search_and_its_budget_are_told(summarise, typed, settings, then):
    summary = summarise(**typed)
    assert line(summary, "settings:") == f"settings: chosen on {settings}"
    assert [text for text in summary.lines() if "then:" in text] == ([f"  then: {then}"] if then else [])


def test_epochs_and_buffer_sizes_are_axes_too(summarise):
    summary = summarise(epochs=(1, 3), buffer_size=(100, 200))
    assert (line(summary, "epochs:"), line(summary, "buffer sizes:")) == ("epochs: 1 3", "buffer sizes: 100 200")
    assert not any(text.startswith("  buffer") for text in summarise(models=("sgd",), methods=("BN",)).lines())


def test_one_run_is_no_runs(summarise):
    assert summarise(methods=("BN",), seeds=(0,)).lines()[0] == "1 run: 1 not run"


def test_a_plan_is_over_when_the_runs_that_follow_are(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.search.best_setting", lambda runs: 1)
    typed = {"selection": "validation", "methods": ("AdaB2N",), "seeds": (0,)}
    finish(*summarise(**typed).jobs)
    summary = summarise(**typed)
    assert not summary.is_over
    finish(*summary.following)
    assert summary.is_over


def test_budgets_that_differ_are_a_range(summarise):
    summary = summarise(models=("er", "sgd"), lambd=(0.1, 1.0), seeds=(0,))
    assert "2 cells of 3 to 6 settings, 3 to 6 runs per cell" in line(summary, "settings:")


def test_a_plan_without_a_search_tells_of_none(summarise):
    assert not any("settings" in text for text in summarise(methods=("BN",)).lines())


def test_what_is_known_of_the_best_is_listed_exactly(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.search.best_setting", lambda runs: 1)
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
    told = summary.for_programs()
    assert (told["runs"], told["following"], len(told["following_jobs"])) == (5, 2, 2)
    assert told["searches"][0]["chosen"] == "kappa 0.4"


def test_runs_of_the_search_that_stand_in_the_table_too_are_not_listed_twice(summarise, monkeypatch):
    monkeypatch.setattr("utils.launch.search.best_setting", lambda runs: 0)
    finish(*(job for job in summarise(search_seeds=(0,)).jobs if job.config.nl == "AdaB2N"))
    summary = summarise(search_seeds=(0,))
    assert [job.config.seed for job in summary.following] == [1]


@pytest.mark.parametrize(
    ("known", "places", "text"),
    [
        ({}, 2, "time: no run like these is complete yet; it is estimated once the first ones are under way"),
        # three settings and two runs of BN, and two more of the best setting: seven times an hour
        ({"BN": 3600}, 2, "estimated 3.5 hours on 2 at a time, from complete runs like 2 of these 7"),
        ({"BN": 60, "AdaB2N": 120}, 1, "estimated 11 minutes on 1 at a time, from complete runs like 5 of these 7"),
        ({"BN": 1, "AdaB2N": 100}, 20, "estimated 100 seconds on 20 at a time, from complete runs like 5 of these 7"),
    ],
)
def test_time_is_estimated_from_runs_that_are_complete(summarise, known, places, text):
    typed = {"selection": "validation", "search_seeds": (0,)}
    summary = summarise(lambda job: known.get(job.config.nl), places, **typed)
    assert text in (each.strip() for each in summary.lines())


def test_complete_runs_take_no_time(summarise):
    summary = summarise(lambda job: 600.0, 1, methods=("BN",))
    assert line(summary, "estimated") == "estimated 20 minutes on 1 at a time, from complete runs like these"
    finish(summary.jobs[0])
    assert summary.for_programs()["estimated_seconds"] == 600.0
    finish(summary.jobs[1])
    assert not any("estimate" in text for text in summary.lines())
    assert summary.for_programs()["estimated_seconds"] == 0.0


def test_work_that_is_left_is_told_in_training_steps(summarise):
    summary = summarise(methods=("BN",))
    assert line(summary, "work:") == "work: 200 training steps"
    finish(summary.jobs[0])
    assert line(summary, "work:") == "work: 100 training steps"
    assert summary.for_programs()["training_steps"] == 100


def test_runs_that_follow_a_search_are_work_too(summarise):
    assert line(summarise(search_seeds=(0,)), "work:") == "work: about 600 training steps"


def test_steps_that_cannot_be_told_are_left_out(summarise):
    summary = summarise(num_steps=None)
    assert not any("work:" in text for text in summary.lines())
    assert summary.for_programs()["training_steps"] is None
