import io
import json
import time
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.utils.launch.rig import RESULT, FakeEstimates, FakeSlot, job
from tests.utils.records.rig import progress as reported
from utils.launch.estimates import Remaining
from utils.launch.local import Child
from utils.launch.scheduler import PlanProgress
from utils.launch.view import PLAIN_REFRESH, View
from utils.records.ledger import Axes
from utils.records.state import RunState


def console(terminal=False, width=100):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=30, highlight=False)


def child_of(each, lines=("printed",), started=0.0):
    path = each.record.folder.parent / f"{each.name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return Child(each, FakeSlot("GPU 0"), SimpleNamespace(), path, time.monotonic() - started)


def view_on(screen, seconds=None):
    """A view of runs that all take so long."""
    return View("study", Remaining(FakeEstimates(lambda each: seconds)), screen)


@pytest.fixture
def view():
    return view_on(console())


def shown(view):
    return view._console.file.getvalue()


def test_a_start_and_an_end_are_a_line_each(tmp_path, view):
    each = job(tmp_path, "run")
    each.record.open().write_result(RESULT)
    child = child_of(each, started=65.0)
    view.started(child)
    view.ended(each, RunState.COMPLETE, "", child, PlanProgress(1, outcomes={"run": (RunState.COMPLETE, "")}))
    assert shown(view).splitlines() == [
        "started run on GPU 0",
        "[1/1] run: final Class-IL 50.00 %, 0:01:05, ETA 0:00:00",
    ]


def test_lines_tell_the_setting_and_whether_it_is_judged_on_held_out_data(tmp_path, view):
    searched = job(tmp_path, "run", kappa=0.4, lambd=0.1, validation=0.1)
    final = job(tmp_path, "run", kappa=0.4, lambd=0.1, nf=4)
    for each in (replace(made, axes=Axes(("kappa", "lambd"))) for made in (searched, final)):
        view.started(child_of(each))
        view.ended(each, RunState.DIVERGED, "why", child_of(each), PlanProgress(1))
    assert [line.partition(" (")[2].partition(")")[0] for line in shown(view).splitlines()] == [
        *["kappa 0.4, lambd 0.1, held out"] * 2,
        *["kappa 0.4, lambd 0.1"] * 2,
    ]


LONG_PATH = "/a/" + "long/" * 10


@pytest.mark.parametrize(
    ("terminal", "lines"),
    [
        (True, ["  a line that is not for a", "    narrow terminal, with", f"    {LONG_PATH}", "    in it"]),
        (False, [f"  a line that is not for a narrow terminal, with {LONG_PATH} in it"]),
    ],
)
def test_a_terminal_gets_lines_broken_between_words(terminal, lines):
    view = view_on(console(terminal, width=30))
    view.close()
    before = len(shown(view))
    view.say(f"  a line that is not for a narrow terminal, with {LONG_PATH} in it")
    assert shown(view)[before:].splitlines() == lines


def test_a_failing_run_shows_its_own_last_lines_as_they_are(tmp_path, view):
    each = job(tmp_path, "run")
    child = child_of(each, ["Traceback", "[red]RuntimeError: " + "x" * 200])
    view.ended(each, RunState.FAILED, "RuntimeError", child, PlanProgress(2, outcomes={"run": (RunState.FAILED, "")}))
    lines = shown(view).splitlines()
    assert lines[0] == "[1/2] run failed on GPU 0 after 0:00:00: RuntimeError"
    assert lines[2] == "    [red]RuntimeError: " + "x" * 200
    assert str(child.log_path) in lines[3]


def test_a_run_that_could_not_be_started_is_named(tmp_path, view):
    each = job(tmp_path, "run")
    view.ended(each, RunState.FAILED, "cannot be started: why", None, PlanProgress(1))
    assert "run failed after 0:00:00: cannot be started: why" in shown(view)


def test_a_run_that_was_complete_before_is_not_worth_a_line(tmp_path, view):
    view.ended(job(tmp_path, "run"), RunState.COMPLETE, "", None, PlanProgress(1))
    assert shown(view) == ""


def test_estimates_are_asked_for_the_end(tmp_path):
    view = view_on(console(), 3600.0)
    each = job(tmp_path, "run")
    other = job(tmp_path, "other")
    progress = PlanProgress(2, {other.name: child_of(other)})
    view.show(progress)
    view.ended(each, RunState.COMPLETE, "", child_of(each), progress)
    assert "ETA 0:59:5" in shown(view) or "ETA 1:00:00" in shown(view)


def test_without_a_terminal_nothing_is_drawn(view):
    view.show(PlanProgress(3))
    view.close()
    assert shown(view) == ""


def test_without_a_terminal_the_first_estimate_is_a_line(tmp_path):
    view = view_on(console())
    progress = PlanProgress(3, {"run": child_of(job(tmp_path, "run"))}, waiting=deque([job(tmp_path, "other")]))
    view.show(progress)
    assert (shown(view), view.refresh) == ("", PLAIN_REFRESH)
    view = view_on(console(), 3600.0)
    view.show(progress)
    view.show(progress)
    assert shown(view).splitlines() in (
        ["0 of 3 runs done, 1 running, ETA 2:00:00"],
        ["0 of 3 runs done, 1 running, ETA 1:59:59"],
    )
    assert view.refresh is None


def test_runs_that_will_follow_are_counted_from_the_start(tmp_path, view):
    view.num_following = lambda: 5
    each = job(tmp_path, "run")
    progress = PlanProgress(3, outcomes={"run": (RunState.COMPLETE, "")})
    view.ended(each, RunState.COMPLETE, "", child_of(each), progress)
    assert shown(view).startswith("[1/8] run")
    assert view.closing_lines(progress, stopped=False) == ["1 of 8 runs complete"]


def test_after_a_stop_it_says_what_is_saved(tmp_path, view):
    saved, lost = job(tmp_path, "saved"), job(tmp_path, "lost")
    saved.record.open().checkpoint_path.write_bytes(b"state")
    outcomes = {}
    for each in (saved, lost):
        outcomes[each.name] = (RunState.STOPPED, "")
        view.ended(each, RunState.STOPPED, "", child_of(each), PlanProgress(9, outcomes=outcomes))
    assert view.closing_lines(PlanProgress(9, outcomes=outcomes), stopped=True) == [
        "0 of 9 runs complete",
        "1 of 2 stopped runs saved their state; the same command resumes them",
    ]


def test_a_stop_before_anything_ran_promises_nothing(view):
    assert view.closing_lines(PlanProgress(9), stopped=True) == ["0 of 9 runs complete"]


def test_on_a_terminal_the_screen_is_drawn_and_taken_away(tmp_path):
    each = job(tmp_path, "run")
    each.record.open().write_progress(reported())
    view = view_on(console(terminal=True))
    assert view.refresh is not None
    view.show(PlanProgress(3, {"run": child_of(each)}))
    view.say("a line above")
    drawn = shown(view)
    for text in (
        "study: 0 of 3 runs done",
        "ETA unknown",
        "1 running  2 waiting",
        "GPU 0",
        "task 2/3, step 50/120, loss 0.25",
    ):
        assert text in drawn
    assert "a line above" in drawn
    view.close()
    view.close()
    assert "\x1b[?25h" in shown(view)[len(drawn) :]  # the cursor is back


@pytest.mark.parametrize("content", ["{", json.dumps({"schema": 1}), json.dumps({"schema": 2}), "[" * 100_000])
def test_a_damaged_result_is_complete_all_the_same(tmp_path, view, content):
    each = job(tmp_path, "run")
    each.record.open().result_path.write_text(content)
    view.ended(each, RunState.COMPLETE, "", child_of(each), PlanProgress(1))
    assert "run: complete, " in shown(view)
