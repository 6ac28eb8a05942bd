"""Summaries against the real wandb in offline mode, read back from what it wrote, and against broken ones."""

import functools
import io
import time

import pytest
from PIL import Image

from tests.utils.records.wandb_rig import Tracked, install_fake, is_gone, make_summary, wait_for
from utils.records import trackers
from utils.records.trackers import send_summaries


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Installs a stand-in for wandb, each of whose calls does what the test says, and gives the folder it writes to."""
    return functools.partial(install_fake, tmp_path / "packages", monkeypatch)


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """Two summaries in two projects, sent at once, and what was said."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    said = []
    first = make_summary(folders[0], "first", "aaaa", image=png(40, 30))
    second = make_summary(folders[1], "second", "bbbb", image=png(20, 10))
    assert send_summaries([first, second], said.append) is True
    return [Tracked(folder) for folder in folders], said


def test_each_summary_is_a_run_of_its_project(summaries):
    tracked, said = summaries
    assert [(each.run.project, each.run.run_id, each.exit_code) for each in tracked] == [
        ("first", "aaaa", 0),
        ("second", "bbbb", 0),
    ]
    run = tracked[0].run
    assert (run.job_type, run.display_name, run.notes) == ("summary", "a summary", "größer")
    assert said == []


def test_summary_has_tables_and_images(summaries):
    tracked, _ = summaries
    table = tracked[0].table("table/A_f")
    assert (table["columns"], table["data"]) == (["norm", "d er 200"], [["BN", "50.00 ± 1.00"]])
    assert tracked[1].table("figures")["data"] == [[3, None]]
    images = [Image.open(each.file("plots/a column")) for each in tracked]
    assert [(image.size, image.convert("RGB").getpixel((5, 5))) for image in images] == [
        ((40, 30), (200, 30, 30)),
        ((20, 10), (200, 30, 30)),
    ]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_failing_summary_is_said_in_one_line(fake, tmp_path, where):
    fake(**{where: "raise RuntimeError('no such entity\\nand more')"})
    said = []
    assert send_summaries([make_summary(tmp_path), make_summary(tmp_path)], said.append) is False
    (line,) = said
    assert "RuntimeError: no such entity" in line


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_hanging_summary_is_waited_for_a_bounded_time_and_leaves_no_process(fake, tmp_path, monkeypatch, where):
    folder = fake(**{where: "time.sleep(600)"})
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 1.5)
    said, started = [], time.monotonic()
    assert send_summaries([make_summary(tmp_path, image=png(9, 9)), make_summary(tmp_path)], said.append) is False
    assert time.monotonic() - started < 10
    (line,) = said
    assert "not done within 3 s" in line
    wait_for(lambda: is_gone((folder / "started").read_text()))


def test_missing_wandb_is_said_of_a_summary(fake, tmp_path):
    fake(text="raise ModuleNotFoundError(\"No module named 'wandb'\")")
    said = []
    assert send_summaries([make_summary(tmp_path)], said.append) is False
    assert ["No module named 'wandb'" in line for line in said] == [True]
