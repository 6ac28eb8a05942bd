from collections import deque
from types import SimpleNamespace

import pytest

from tests.utils.launch.gpu_rig import Clock
from utils.launch.remaining import Remaining
from utils.launch.scheduler import Progress


def job(kind, seed):
    return SimpleNamespace(name=f"{kind}-s{seed}-0123456789")


def plan(clock, running, waiting, finished=()):
    """Runs under way since so many seconds, waiting ones, and those that took so long; each as (kind, number)."""
    jobs = [(job(kind, seed), since) for seed, (kind, since) in enumerate(running)]
    children = {each.name: SimpleNamespace(job=each, started=clock() - since) for each, since in jobs}
    ended = [(job(kind, 100 + seed), took) for seed, (kind, took) in enumerate(finished)]
    return Progress(99, children, {}, ended, deque(job(kind, 200 + seed) for seed, kind in enumerate(waiting)))


@pytest.fixture
def clock():
    return Clock()


def remaining(clock, progress, **recorded):
    play = Remaining(lambda each: recorded.get(each.name.partition("-")[0]), clock)
    play.note_places(progress)
    return play.seconds(progress)


def test_nothing_is_left_when_nothing_runs_or_waits(clock):
    assert remaining(clock, plan(clock, [], [])) == 0.0


def test_nothing_is_known_at_first(clock):
    assert remaining(clock, plan(clock, [("a", 5.0)], ["a", "b"])) is None


def test_records_tell_before_a_run_is_over(clock):
    assert remaining(clock, plan(clock, [("a", 4.0)], ["a", "b"]), a=10.0, b=100.0) == 6.0 + 10.0 + 100.0


def test_runs_of_this_launcher_tell_it_better(clock):
    progress = plan(clock, [("a", 4.0)], ["a"], finished=[("a", 20.0), ("a", 30.0)])
    assert remaining(clock, progress, a=10.0) == 21.0 + 25.0


def test_slow_and_fast_kinds_are_told_apart(clock):
    progress = plan(clock, [("fast", 0.0)], ["slow"] * 3, finished=[("fast", 1.0)] * 9 + [("slow", 100.0)])
    assert remaining(clock, progress) == 301.0


def test_an_unknown_kind_takes_as_long_as_the_known_ones_in_the_mean(clock):
    progress = plan(clock, [("other", 0.0)], [], finished=[("fast", 1.0)] * 9 + [("slow", 99.0)])
    assert remaining(clock, progress) == 50.0
    assert remaining(clock, plan(clock, [("other", 0.0)], ["a"]), a=7.0) == 14.0


def test_places_work_side_by_side_and_the_last_run_counts(clock):
    running = [("long", 0.0), ("short", 0.0)]
    assert remaining(clock, plan(clock, running, ["short"] * 3), long=100.0, short=10.0) == 100.0
    assert remaining(clock, plan(clock, running, ["short"] * 12), long=100.0, short=10.0) == 120.0


def test_a_run_that_takes_longer_than_others_may_end_any_time(clock):
    assert remaining(clock, plan(clock, [("a", 50.0)], ["a"]), a=10.0) == 10.0


def test_a_place_that_has_just_come_free_is_used_again(clock):
    play = Remaining(lambda each: 10.0, clock)
    progress = plan(clock, [("a", 0.0), ("a", 0.0)], ["a"] * 2)
    play.note_places(progress)
    progress.running.popitem()
    assert play.seconds(progress) == 20.0


def test_records_are_asked_once_for_each_run(clock):
    asked = []
    progress = plan(clock, [("a", 0.0)], ["a", "b"])
    play = Remaining(lambda each: asked.append(each.name), clock)
    assert play.seconds(progress) is play.seconds(progress) is None
    assert len(asked) == len(set(asked)) == 3
