import io
import re

import pytest
from rich.console import Console

from tests.utils.records.rig import progress as told
from utils.records.record import Record
from utils.run import progress
from utils.run.progress import ProgressReport, Screen


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=False, width=120)


@pytest.fixture
def now(monkeypatch):
    """The time, which stands still unless it is changed."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "time", lambda: 1e9 + now[0])
    return now


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run").open()


def report_of(record, console, total_steps=120):
    return ProgressReport(record, Screen(console=console), 3, total_steps, lambda: {"host_bytes": 5})


def shown(console):
    return console.file.getvalue()


def test_plain_lines_come_now_and_then_and_are_of_the_whole_run(console, record, now):
    report = report_of(record, console)
    with report.during_run(0):
        report.update(task=1, epoch=2, num_epochs=4)
        report.advance(1, 1, None)
        assert shown(console) == ""
        now[0] += progress.PLAIN_INTERVAL
        report.advance(20, 20, 0.5)
        report.advance(21, 21, 0.5)
    (line,) = shown(console).splitlines()
    assert line == "task 2/3, epoch 3/4  step 20/120  loss 0.5  1.0 steps/s  ETA 0:01:40"


def test_speed_and_eta_count_from_where_a_run_went_on(console, record, now):
    report = report_of(record, console, 40)
    with report.during_run(30):
        now[0] += 20
        report.advance(35, 5, 0.5)
    assert "step 35/40  loss 0.5  0.2 steps/s  ETA 0:00:20" in shown(console)


def test_without_a_known_number_of_steps_there_is_no_eta(console, record, now):
    report = report_of(record, console, None)
    with report.during_run(0):
        now[0] += 20
        report.advance(40, 40, None)
    assert "step 40  loss –  2.0 steps/s  ETA unknown" in shown(console)


def test_the_file_is_written_at_most_a_few_times_a_second_and_at_the_end(console, record, now, monkeypatch):
    written = []
    monkeypatch.setattr(record, "write_progress", written.append)
    report = report_of(record, console)
    report.refresh()
    assert not written  # nothing is told before the run begins
    with report.during_run(0):
        for step in range(1, 101):
            now[0] += 0.01
            report.advance(step, step, 0.25)
    assert [each.step for each in written] == [0, 40, 80, 100]
    last = written[-1]
    assert (last.stage_step, last.loss, last.host_bytes, last.device_bytes) == (100, 0.25, 5, None)
    assert last.updated - last.started == pytest.approx(1.0)


def test_what_goes_on_is_told_and_the_choice_of_exemplars_before_it_begins(console, record, now):
    report = report_of(record, console)
    with report.during_run(0):
        with report.during("exemplars"):
            assert record.read_progress().phase == "choosing exemplars"
        with report.during("norms"), report.during("evaluation"):
            now[0] += progress.FILE_INTERVAL
            report.refresh()
            assert record.read_progress().phase == "evaluating"
        now[0] += progress.FILE_INTERVAL
        report.refresh()
        assert record.read_progress().phase == "training"


def test_a_quiet_screen_says_the_results_only(console, record, now):
    screen = Screen(verbose=False, console=console)
    screen.say("a detail", detail=True)
    screen.show(told())
    screen.say("a result")
    assert shown(console) == "a result\n"


def test_what_is_said_is_logged_too(console):
    lines = []
    screen = Screen(console=console)
    screen.log = lines.append
    screen.say("[bold]as it is[/bold]")
    assert lines == ["[bold]as it is[/bold]"]
    assert shown(console) == "[bold]as it is[/bold]\n"


def test_a_live_bar_shows_the_whole_run_and_is_gone_at_the_end():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    screen = Screen(console=console)
    screen.begin()
    screen.show(told(num_epochs=4, epoch=1))
    screen.end()
    for text in ("task 2/3, epoch 2/4", "step 50/120", "loss 0.25", "10.0 steps/s", "ETA 0:00:07"):
        assert text in shown(console)
    assert shown(console).endswith("\x1b[2K")  # the line is cleared


@pytest.mark.parametrize(
    ("width", "status"),
    [
        (74, "step 50/120  loss 0.25  10.0 steps/s  ETA 0:00:07"),
        (73, "step 50/120  10.0 steps/s  ETA 0:00:07"),
        (60, "step 50/120  ETA 0:00:07"),
        (48, "ETA 0:00:07"),
    ],
)
def test_in_a_narrow_terminal_the_loss_and_the_speed_go_before_the_rest(width, status):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    screen = Screen(console=console)
    screen.begin()
    screen.show(told(num_epochs=4, epoch=1))
    screen.end()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(console)).strip().splitlines()[-1].split("\r")[-1]
    title, bar, shown_status = re.fullmatch(r"(.*\d) ([━╸╺]+) (\S.*?) *", last).groups()
    assert (title, shown_status, len(bar) >= 4) == ("task 2/3, epoch 2/4", status, True)
