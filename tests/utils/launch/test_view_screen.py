import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from utils.launch.scheduler import PlanProgress
from utils.launch.view import draw, shorten_name
from utils.records.ledger import Axes
from utils.records.state import RunState

LONG = "seq-miniimg-er_ace-5000-AdaB2N-50ep-s{}-0123456789"


def child(name, device, words=(), progress="task 12, step 3400, loss 1.234"):
    record = SimpleNamespace(read_progress=lambda: SimpleNamespace(words=progress))
    job = SimpleNamespace(name=name, words=words, axes=Axes(("kappa", "lambd", "ada_t0")), record=record)
    return SimpleNamespace(job=job, label=device, started=time.monotonic() - 3700.5)


def picture(progress, width=100, height=30, num_following=0):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(draw("a study", progress, "1:02:03", (width, height), num_following))
    return console.file.getvalue().splitlines()


def under_way(num_running, num_slots=2, **outcomes):
    over = {f"{name}{number}": (RunState[name.upper()], "why") for name, n in outcomes.items() for number in range(n)}
    running = {LONG.format(seed): child(LONG.format(seed), f"GPU {seed % num_slots}") for seed in range(num_running)}
    return PlanProgress(200, running, over)


@pytest.mark.parametrize("width", [20, 40, 60, 100, 160])
def test_every_line_fits(width):
    lines = picture(under_way(6, complete=50, failed=3), width)
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if line.startswith("GPU")]) == 6


@pytest.mark.parametrize(("height", "num_shown"), [(30, 20), (23, 18), (10, 5), (5, 0), (2, 0)])
def test_what_has_no_room_is_counted(height, num_shown):
    lines = picture(under_way(20), height=height)
    assert len([line for line in lines if line.startswith("GPU")]) == num_shown
    assert (f"and {20 - num_shown} more" in lines) == (num_shown < 20)
    assert len(lines) <= max(height - 1, 4)


def test_counts_and_the_time_left_are_on_top():
    lines = picture(under_way(2, complete=9, diverged=1, failed=2))
    assert lines[0].startswith("a study: 12 of 200 runs done")
    assert lines[0].endswith("ETA 1:02:03")
    assert lines[2] == "9 complete  1 diverged  2 failed  2 running  186 waiting"


def test_runs_that_will_follow_are_part_of_the_total():
    lines = picture(under_way(2, complete=9), num_following=40)
    assert lines[0].startswith("a study: 9 of 240 runs done")
    assert lines[2] == "9 complete  2 running  189 waiting  40 to follow"


def test_stopped_runs_are_not_done():
    assert picture(under_way(0, complete=9, stopped=2))[0].startswith("a study: 9 of 200 runs done")


def test_runs_of_one_device_are_together():
    lines = picture(under_way(24, num_slots=12), height=40)
    labels = [line.split("  ")[0] for line in lines if line.startswith("GPU")]
    assert labels == [f"GPU {number}" for number in range(12) for _ in range(2)]


def test_the_norm_layer_stays_in_sight_and_the_details_give_way_before_the_task():
    wide, narrow = (picture(under_way(1), width)[3] for width in (100, 60))
    assert LONG.format(0) in wide
    assert "loss 1.234" in wide
    assert "1:01:40" in narrow
    assert narrow.endswith("task 12")
    assert "…" in narrow
    assert "AdaB2N-50ep-s0 " in narrow


def test_runs_of_a_search_are_told_apart_and_their_names_give_way():
    words = ("--model", "er", "--kappa", "0.4", "--lambd", "10.0", "--nf", "4")
    held_out = (*words, "--ada_t0", "1", "--validation", "0.1")
    each_words = {"a": words, "b": held_out, "c": ()}
    running = {name: child(LONG.format(0), "CPU", each, "task 2, step 3, loss 1") for name, each in each_words.items()}
    first, second, third = picture(PlanProgress(3, running), 80)[3:]
    assert "AdaB2N-50ep-s0  kappa 0.4, lambd 10.0 " in first
    assert "  kappa 0.4, lambd 10.0, ada_t0 1, held out  1:01:40  task 2" in second
    assert "lambd" not in third
    assert len({line.index("1:01:40") for line in (first, second, third)}) == 1


def test_the_last_failures_say_why():
    progress = under_way(1, failed=5)
    lines = picture(progress)
    assert lines[-3:] == [f"failed: failed{number}: why" for number in (2, 3, 4)]


def test_hostile_text_is_shown_as_it_is():
    progress = PlanProgress(
        2, {"[red]x": child("[red]x", "[bold]", progress="[blink]")}, {"[/]": (RunState.FAILED, "[link=a]b")}
    )
    lines = picture(progress)
    assert "[red]x" in lines[3]
    assert "[blink]" in lines[3]
    assert lines[4] == "failed: [/]: [link=a]b"


@pytest.mark.parametrize("progress", [PlanProgress(0), PlanProgress(3)])
def test_nothing_under_way_is_a_picture_too(progress):
    assert len(picture(progress)) == 3


@pytest.mark.parametrize(
    ("width", "text"), [(17, "er-BN-1ep-s0-0123"), (16, "er-BN-1ep-s0"), (12, "er-BN-1ep-s0"), (5, "…p-s0"), (1, "…")]
)
def test_a_name_keeps_its_end_but_for_the_hash(width, text):
    assert shorten_name("er-BN-1ep-s0-0123", width) == text
