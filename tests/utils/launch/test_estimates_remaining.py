from collections import deque
from types import SimpleNamespace

import pytest

from tests.utils.launch.gpu_rig import Clock
from tests.utils.launch.rig import FakeEstimates
from utils.launch.estimates import Remaining
from utils.launch.scheduler import PlanProgress


def job(kind, seed):
    return SimpleNamespace(name=f"{kind}-s{seed}-0123456789", record=FakeRecord())


class FakeRecord:
    """Has the step that a run has reported."""

    step = None

    def read_progress(self):
        return None if self.step is None else SimpleNamespace(step=self.step)


def plan(clock, running, waiting, finished=()):
    """Runs under way since so many seconds, waiting ones, and those that took so long; each as (kind, number)."""
    jobs = [(job(kind, seed), since) for seed, (kind, since) in enumerate(running)]
    children = {each.name: SimpleNamespace(job=each, started=clock() - since) for each, since in jobs}
    ended = [(job(kind, 100 + seed), took) for seed, (kind, took) in enumerate(finished)]
    return PlanProgress(99, children, {}, ended, deque(job(kind, 200 + seed) for seed, kind in enumerate(waiting)))


@pytest.fixture
def clock():
    return Clock()


def remaining(clock, progress, **recorded):
    play = Remaining(FakeEstimates(lambda each: recorded.get(kind_of(each))), clock)
    play.note(progress)
    return play.seconds(progress)


def test_nothing_is_left_when_nothing_runs_or_waits(clock):
    assert remaining(clock, plan(clock, [], [])) == 0.0


def test_nothing_is_known_at_first(clock):
    assert remaining(clock, plan(clock, [("a", 5.0)], ["a", "b"])) is None


def test_records_count_before_a_run_is_over(clock):
    assert remaining(clock, plan(clock, [("a", 4.0)], ["a", "b"]), a=10.0, b=100.0) == 6.0 + 10.0 + 100.0


def test_runs_of_this_launcher_count_more(clock):
    progress = plan(clock, [("a", 4.0)], ["a"], finished=[("a", 20.0), ("a", 30.0)])
    assert remaining(clock, progress, a=10.0) == 21.0 + 25.0


def test_slow_and_fast_kinds_are_told_apart(clock):
    progress = plan(clock, [("fast", 0.0)], ["slow"] * 3, finished=[("fast", 1.0)] * 9 + [("slow", 100.0)])
    assert remaining(clock, progress) == 301.0


def test_an_unknown_kind_takes_as_long_as_the_known_ones_in_the_mean(clock):
    progress = plan(clock, [("other", 0.0)], [], finished=[("fast", 1.0)] * 9 + [("slow", 99.0)])
    assert remaining(clock, progress) == 50.0
    assert remaining(clock, plan(clock, [("other", 0.0)], ["a"]), a=7.0) == 14.0


def test_runs_go_on_side_by_side_and_the_last_run_counts(clock):
    running = [("long", 0.0), ("short", 0.0)]
    assert remaining(clock, plan(clock, running, ["short"] * 3), long=100.0, short=10.0) == 100.0
    assert remaining(clock, plan(clock, running, ["short"] * 12), long=100.0, short=10.0) == 120.0


def test_a_run_that_takes_longer_than_others_may_end_any_time(clock):
    assert remaining(clock, plan(clock, [("a", 50.0)], ["a"]), a=10.0) == 10.0


def test_a_place_that_has_just_come_free_is_used_again(clock):
    play = Remaining(FakeEstimates(lambda each: 10.0), clock)
    progress = plan(clock, [("a", 0.0), ("a", 0.0)], ["a"] * 2)
    play.note(progress)
    progress.running.popitem()
    assert play.seconds(progress) == 20.0


def test_records_are_asked_once_for_each_run(clock):
    asked = []
    progress = plan(clock, [("a", 0.0)], ["a", "b"])
    play = Remaining(FakeEstimates(lambda each: asked.append(each.name)), clock)
    assert play.seconds(progress) is play.seconds(progress) is None
    assert len(asked) == len(set(asked)) == 3


class Reporting:
    """Runs of 100 steps, or as many as given by kind, that report how far they are."""

    def __init__(self, clock, **rough):
        self.sizes = {}
        estimates = FakeEstimates(
            rough=lambda each: rough.get(kind_of(each)), num_steps=lambda each: self.sizes.get(kind_of(each), 100)
        )
        self.remaining = Remaining(estimates, clock)

    def look(self, progress, num_following=0, **steps):
        for child in progress.running.values():
            if kind_of(child.job) in steps:
                child.job.record.step = steps[kind_of(child.job)]
        self.remaining.note(progress)
        return self.remaining.seconds(progress, num_following)


def kind_of(each):
    return each.name.partition("-")[0]


def test_reported_steps_are_an_estimate_before_the_first_is_over(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    assert reporting.look(progress) is None
    clock.advance(20.0)
    assert reporting.look(progress, a=0) is None
    clock.advance(10.0)
    assert reporting.look(progress, a=10) == 3.0 * 90
    clock.advance(5.0)
    assert reporting.look(progress, a=10) == 3.0 * 90 - 5.0
    clock.advance(5.0)
    assert reporting.look(progress, a=30) == 0.5 * 70  # without the start, once two later steps are reported


def test_a_first_step_tells_nothing_of_a_kind_that_is_known(clock):
    progress, reporting = plan(clock, [("a", 0.0)], [], finished=[("a", 50.0)]), Reporting(clock)
    reporting.look(progress)
    clock.advance(20.0)
    assert reporting.look(progress, a=1) == 30.0  # and not 20 s for each of the 99 that follow
    clock.advance(10.0)
    assert reporting.look(progress, a=21) == 0.5 * 79


def test_waiting_runs_take_what_their_kind_takes_or_as_many_steps_of_another(clock):
    progress, reporting = plan(clock, [("a", 0.0)], ["a", "b"]), Reporting(clock)
    reporting.sizes["b"] = 200
    reporting.look(progress)
    clock.advance(10.0)
    assert reporting.look(progress, a=10) == 90.0 + 100.0 + 200.0
    clock.advance(4.0)
    assert reporting.look(progress, a=20) == pytest.approx(0.4 * 80 + 46.0 + 2 * 46.0)  # 6 s of which are its start


def test_runs_that_follow_take_as_long_as_the_others(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    reporting.look(progress)
    clock.advance(10.0)
    assert reporting.look(progress, num_following=2, a=10) == 90.0 + 2 * 100.0


def test_a_run_of_which_nobody_asks_for_long_has_begun_where_it_began(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    reporting.remaining.note(progress)
    clock.advance(50.0)
    assert reporting.look(progress, a=50) == 50.0


def test_a_run_that_goes_on_from_its_state_is_as_fast_as_it_is_now(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    assert reporting.look(progress, a=80) is None
    clock.advance(10.0)
    assert reporting.look(progress, a=70) is None  # what lay after its state was cut off
    clock.advance(10.0)
    assert reporting.look(progress, a=90) == 10.0
    (child,) = progress.running.values()
    progress.running.clear()
    progress.finished.append((child.job, 30.0))
    progress.waiting.append(job("a", 7))
    assert reporting.look(progress) == 30.0 + 70 * 1.0


def test_a_run_that_is_started_again_is_measured_anew(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    reporting.look(progress)
    clock.advance(10.0)
    reporting.look(progress, a=50)
    (child,) = progress.running.values()
    child.started = clock()
    assert reporting.look(progress) == 20.0  # of its whole time that it took before
    clock.advance(40.0)
    assert reporting.look(progress, a=60) == 40 * 4.0


def test_the_speed_of_runs_under_way_comes_before_that_of_others_in_records(clock):
    progress, reporting = plan(clock, [("a", 0.0)], ["a", "b"]), Reporting(clock, a=1000.0, b=2000.0)
    assert reporting.look(progress) == 4000.0
    clock.advance(10.0)
    assert reporting.look(progress, a=10) == 90.0 + 100.0 + 2000.0


def test_a_run_that_has_taken_more_steps_than_it_was_said_to_may_end_any_time(clock):
    progress, reporting = plan(clock, [("a", 0.0)], []), Reporting(clock)
    reporting.look(progress)
    clock.advance(10.0)
    assert reporting.look(progress, a=101) == 0.0
