import io

import pytest
from rich.console import Console

from utils.run import progress
from utils.run.progress import Screen


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=False, width=120)


def shown(console):
    return console.file.getvalue()


def test_plain_lines_come_now_and_then_and_name_the_epoch(console, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Screen(console=console)
    screen.begin("task 1/2", 0, 40)
    screen.rename("task 1/2, epoch 3/4")
    screen.advance(1, None)
    assert shown(console) == ""
    now[0] += progress.PLAIN_INTERVAL
    screen.advance(20, 0.5)
    assert shown(console).strip() == "task 1/2, epoch 3/4  step 20/40  loss 0.5000  1.0 steps/s  ETA 0:00:20"


def test_speed_and_eta_count_from_where_a_run_went_on(console, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    screen = Screen(console=console)
    screen.begin("task 1/2", 30, 40)
    now[0] += 20
    screen.advance(35, 0.5)
    assert "0.2 steps/s  ETA 0:00:20" in shown(console)


def test_a_quiet_screen_says_the_results_only(console):
    screen = Screen(verbose=False, console=console)
    screen.say("a detail", detail=True)
    screen.say("a result")
    assert shown(console) == "a result\n"


def test_what_is_said_is_logged_too(console):
    lines = []
    screen = Screen(console=console)
    screen.log = lines.append
    screen.say("[bold]as it is[/bold]")
    assert lines == ["[bold]as it is[/bold]"]
    assert shown(console) == "[bold]as it is[/bold]\n"


def test_a_live_bar_names_the_epoch_and_is_gone_at_the_end():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    screen = Screen(console=console)
    screen.begin("task 1/2", 0, 4)
    screen.rename("task 1/2, epoch 2/4")
    screen.advance(4, 0.25)
    screen.end()
    assert "epoch 2/4" in shown(console)
    assert "0.2500" in shown(console)
