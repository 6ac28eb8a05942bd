"""The tracker against the real wandb in offline mode, read back from what it wrote, and against broken ones."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.utils.records.wandb_rig import (
    LINES,
    LOSSES,
    RESULT,
    Tracked,
    install_fake,
    is_gone,
    items,
    make,
    state_of_the_process,
    wait_for,
)
from utils.config.registry import ROOT
from utils.records import trackers
from utils.records.trackers import NullTracker, WandbTracker, is_logged_in


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One run tracked from beginning to end, with the state of the process before and after."""
    folder, elsewhere, home = (tmp_path_factory.mktemp(name) for name in ("record", "elsewhere", "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        patch.setenv("HOME", str(home))
        patch.setattr(trackers, "CLOSE_SECONDS", 60.0)  # a busy machine is slow
        for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_"))]:
            patch.delenv(name)
        before = state_of_the_process()
        said, started = [], time.monotonic()
        tracker = make(folder, said)
        for line in LINES:
            tracker.log(line)
        passing = time.monotonic() - started
        tracker.finish(RESULT)
        after = state_of_the_process()
    places = {"folder": folder, "elsewhere": elsewhere, "home": home}
    return places | {"said": said, "passing": passing, "states": (before, after)}


@pytest.fixture(scope="module")
def tracked(scene):
    return Tracked(scene["folder"])


def test_run_carries_group_configuration_and_names(tracked):
    run = tracked.run
    assert (run.run_id, run.project, run.run_group, run.display_name) == ("fedcba98", "seq-digits", "a group", "a name")
    assert (run.job_type, list(run.tags)) == ("run", ["a study", "t" * 64])
    config = items(run.config.update)
    expected = {"lr": 0.03, "milestones": [3, 5], "notes": "größer", "nf": None}
    assert {name: config[name] for name in expected} == expected
    assert tracked.exit_code == 0


def test_losses_are_in_the_history_at_their_steps(tracked):
    rows = {row["_step"]: row for row in tracked.history if "train/loss" in row}
    assert sorted(rows) == [50, 100, 150, 200, 250, 300]
    for row in rows.values():
        assert {name: row[f"train/{name}"] for name in LOSSES} == LOSSES
        assert (row["train/task"], row["train/epoch"]) == (1, 1)


def test_accuracies_of_every_task_are_in_the_history(tracked):
    (at_end,) = (row for row in tracked.history if "class_il/mean" in row)
    expected = {"_step": 300, "class_il/task_1": 25.0, "class_il/task_2": 45.0, "class_il/mean": 35.0}
    expected |= {"task_il/task_1": 75.0, "task_il/task_2": 95.0, "task_il/mean": 85.0, "tasks_seen": 2}
    assert {name: at_end[name] for name in expected} == expected
    (inside,) = (row for row in tracked.history if "anytime_class_il/mean" in row)
    assert (inside["_step"], inside["anytime_class_il/mean"]) == (200, 35.0)


@pytest.mark.parametrize(
    ("scenario", "matrix"),
    [("class_il", [[1, 50.0, None], [2, 25.0, 45.0]]), ("task_il", [[1, 80.0, None], [2, 75.0, 95.0]])],
)
def test_matrices_are_tables(tracked, scenario, matrix):
    table = tracked.table(f"matrix/{scenario}")
    assert table["columns"] == ["after task", "task 1", "task 2"]
    assert table["data"] == matrix


def test_final_metrics_are_in_the_summary(tracked):
    expected = {"final/class_il/A_f": 35.0, "final/task_il/A_f": 85.0, "final/class_il/forgetting": 25.0}
    expected |= {"final/steps": 300, "final/training_seconds": 12.5, "final/peak_memory_host_bytes": 1000}
    assert {name: tracked.summary.get(name) for name in expected} == expected
    assert not any(name.endswith(("/FWT", "/A")) for name in tracked.summary)


def test_run_is_left_as_it_was_and_is_not_held_up(scene):
    before, after = scene["states"]
    assert before == after
    assert scene["passing"] < 0.5
    (line,) = scene["said"]
    (path,) = scene["folder"].glob("wandb/offline-run-*-fedcba98")
    assert line.endswith(f"upload it with: wandb sync {path}")
    assert list(scene["elsewhere"].iterdir()) == []
    assert [path for path in scene["home"].rglob("*") if path.is_file() and ".config" not in path.parts] == []
    assert [path.name for path in scene["folder"].iterdir()] == ["wandb"]


# -- When wandb fails -------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Installs a stand-in for wandb, each of whose calls does what the test says, and gives the folder it writes to."""
    return functools.partial(install_fake, tmp_path / "packages", monkeypatch)


RAISE = "raise RuntimeError('no such entity\\nand more')"


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_failure_is_said_in_one_line_and_ends_tracking(fake, tmp_path, where):
    fake(**{where: RAISE})
    said = []
    tracker = make(tmp_path, said)
    tracker.log(LINES[0])
    tracker.finish(RESULT)
    tracker.log(LINES[0])
    tracker.close(0)
    (line,) = said
    assert "RuntimeError: no such entity" in line
    assert "\n" not in line


def test_failure_is_said_while_the_run_goes_on(fake, tmp_path):
    fake(init=RAISE)
    said = []
    tracker = make(tmp_path, said)

    def one_more_line():
        tracker.log(LINES[0])
        return said

    wait_for(one_more_line)
    tracker.log(LINES[0])
    assert ["RuntimeError" in line for line in said] == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ModuleNotFoundError(\"No module named 'wandb'\")", "No module named 'wandb'"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(9)", "exit code 9"),
        ("def init(", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_missing_or_broken_wandb_is_said(fake, tmp_path, text, reason):
    fake(text=text)
    said = []
    make(tmp_path, said).finish(RESULT)
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
@pytest.mark.parametrize("end", ["finish", "close"])
def test_hanging_is_waited_for_a_bounded_time_and_leaves_no_process(fake, tmp_path, monkeypatch, where, end):
    folder = fake(**{where: "time.sleep(600)"})
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.8)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.6)
    said = []
    tracker = make(tmp_path, said)
    for line in LINES:
        tracker.log(line)
    wait_for((folder / "started").exists)
    started = time.monotonic()
    tracker.finish(RESULT) if end == "finish" else tracker.close(143)
    tracker.log(LINES[0])
    assert time.monotonic() - started < 10
    (line,) = said
    assert ("still being sent" if end == "finish" else "not done within 1 s") in line
    wait_for(lambda: is_gone((folder / "started").read_text()))


def test_a_process_that_never_began_is_not_waited_for(fake, tmp_path, monkeypatch):
    folder, said = fake(init="time.sleep(600)"), []
    monkeypatch.setattr(trackers, "BEGIN_SECONDS", 0.0)
    tracker = make(tmp_path, said)
    wait_for((folder / "started").exists)
    started = time.monotonic()
    tracker.finish(RESULT)
    assert time.monotonic() - started < 10
    assert ["it did not start within 0 s" in line for line in said] == [True]
    wait_for(lambda: is_gone((folder / "started").read_text()))


@pytest.mark.parametrize("slow", ["init", "finish"])
def test_what_is_merely_slow_arrives_after_the_run_is_over(fake, tmp_path, slow):
    folder = fake(**{slow: "time.sleep(1.5)"})
    script = f"""
import os, pathlib, time
from utils.records import trackers
trackers.CLOSE_SECONDS = 0.5
names = dict(entity=None, project="p", name="n", group="g", run_id="i", config={{}})
tracker = trackers.make_tracker("offline", **names, folder=pathlib.Path({str(tmp_path)!r}), say=print)
while not os.path.exists({str(folder / "started")!r}):
    time.sleep(0.02)
tracker.finish({RESULT!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=30, check=True)
    assert not (folder / "finished").exists()
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    assert b"still being sent" in done.stdout
    wait_for(lambda: (folder / "finished").exists() and (folder / "finished").read_text() == "0")
    wait_for(lambda: is_gone((folder / "started").read_text()))


@pytest.mark.parametrize("broken", ["log", "finish"])
def test_a_failure_after_the_run_is_over_ends_the_process(fake, tmp_path, monkeypatch, broken):
    folder, said = fake(**{broken: "time.sleep(1); raise RuntimeError('lost')"}), []
    tracker = make(tmp_path, said)
    wait_for((folder / "started").exists)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    tracker.finish(RESULT)
    assert len(said) == 1
    wait_for(lambda: is_gone((folder / "started").read_text()), 15)


def test_lines_that_nobody_takes_end_tracking_at_once(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "QUEUE_SIZE", 3)
    taken = threading.Event()
    monkeypatch.setattr(trackers, "_start_process", taken.wait)
    said = []
    tracker = make(tmp_path, said)
    started = time.monotonic()
    for line in LINES:
        tracker.log(line)
    tracker.finish(RESULT)
    assert time.monotonic() - started < 1
    assert len(said) == 1
    assert "3 lines are waiting" in said[0]
    taken.set()


def test_process_that_has_started_when_tracking_is_over_is_ended(fake, tmp_path, monkeypatch):
    fake(init="time.sleep(600)")
    monkeypatch.setattr(trackers, "QUEUE_SIZE", 3)
    start, may_start = trackers._start_process, threading.Event()
    monkeypatch.setattr(trackers, "_start_process", lambda: may_start.wait() and start())
    said = []
    tracker = make(tmp_path, said)
    for line in LINES:
        tracker.log(line)
    assert len(said) == 1
    may_start.set()
    tracker._messenger._thread.join(20)
    assert tracker._messenger._process.wait(10) == -signal.SIGKILL


def test_matrices_do_not_depend_on_the_step_that_wandb_has_reached(fake, tmp_path):
    """A run resumed from before its last step is ahead of it at wandb, which drops what comes too late."""
    fake(init="Run.rows = []", log="step is None and Run.rows.append(list(values))", finish="exit_code = Run.rows")
    make(tmp_path, []).finish(RESULT)
    assert (tmp_path / "packages" / "finished").read_text() == "[['matrix/class_il', 'matrix/task_il']]"


def test_more_lines_than_a_pipe_holds_arrive_although_wandb_starts_late(fake, tmp_path):
    fake(init="time.sleep(0.5)", log="Run.count = getattr(Run, 'count', 0) + 1", finish="exit_code = Run.count")
    said = []
    tracker = make(tmp_path, said)
    for step in range(5000):
        tracker.log(LINES[0] | {"step": step})
    tracker.finish(RESULT)
    assert said == []
    assert (tmp_path / "packages" / "finished").read_text() == "5001"  # with the tables


@pytest.mark.parametrize("exit_code", [3, 143])
def test_exit_code_is_passed_on_to_a_session_that_ctrl_c_does_not_reach(fake, tmp_path, exit_code):
    folder, said = fake(finish="exit_code = json.dumps([exit_code, os.getsid(0)])"), []
    make(tmp_path, said).close(exit_code)
    given, session = json.loads((folder / "finished").read_text())
    assert given == exit_code
    assert session != os.getsid(0)
    assert said == []


@pytest.mark.parametrize("last", ["os.kill(os.getpid(), 9)", "raise ValueError('a crash')", "sys.exit(7)"])
def test_run_that_ends_without_a_word_is_ended_as_failed(fake, tmp_path, last):
    folder = fake()
    script = f"""
import os, pathlib, sys, time
from utils.records.trackers import make_tracker
names = dict(entity=None, project="p", name="n", group="g", run_id="i", config={{}})
tracker = make_tracker("offline", **names, folder=pathlib.Path({str(tmp_path)!r}), say=print)
while not os.path.exists({str(folder / "started")!r}):
    time.sleep(0.02)
{last}
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=30, check=False)
    assert done.returncode == {"o": -9, "r": 1, "s": 7}[last[0]]
    assert b"noise" not in done.stdout + done.stderr
    wait_for(lambda: (folder / "finished").exists() and (folder / "finished").read_text() == "1")
    wait_for(lambda: is_gone((folder / "started").read_text()))


# -- Whether to track -------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user who has never heard of wandb, and the home folder."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_disabled_starts_nothing_and_says_nothing(tmp_path):
    said = []
    tracker = make(tmp_path, said, mode="disabled")
    assert isinstance(tracker, NullTracker)
    tracker.log(LINES[0])
    tracker.finish(RESULT)
    tracker.close(1)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_auto_without_a_login_is_disabled_and_says_so(nobody):
    said = []
    assert isinstance(make(nobody, said, mode="auto"), NullTracker)
    assert len(said) == 1
    assert "not logged in" in said[0]


@pytest.mark.parametrize(("variable", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("online", "online")])
def test_auto_follows_wandbs_own_mode(nobody, monkeypatch, fake, variable, mode):
    folder = fake(init="open(os.environ['FAKE_FOLDER'] + '/mode', 'w').write(settings['mode'])")
    monkeypatch.setenv("WANDB_MODE", variable)
    said = []
    make(nobody, said, mode="auto").close(0)
    assert (folder / "mode").read_text() == mode
    assert said == []


def test_auto_follows_wandbs_own_disabling(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert isinstance(make(nobody, [], mode="auto"), NullTracker)


def test_auto_with_a_login_is_online_and_resumes(nobody, monkeypatch, fake):
    folder = fake(init="open(os.environ['FAKE_FOLDER'] + '/seen', 'w').write(json.dumps(settings, default=dict))")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    tracker = make(nobody, [], mode="auto")
    assert isinstance(tracker, WandbTracker)
    tracker.close(0)
    seen = json.loads((folder / "seen").read_text())
    assert (seen["mode"], seen["resume"], seen["id"], seen["entity"]) == ("online", "allow", "fedcba98", None)
    assert seen["dir"] == str(nobody)


def test_nobody_is_not_logged_in(nobody):
    assert not is_logged_in()


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_login_by_the_environment(nobody, monkeypatch, name):
    monkeypatch.setenv(name, "something")
    assert is_logged_in()


ENTRY = "machine {} login user password {}\n"


@pytest.mark.parametrize("file", [".netrc", "_netrc", "elsewhere/keys"])
def test_login_by_a_netrc_file(nobody, monkeypatch, file):
    path = nobody / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(ENTRY.format("api.wandb.ai", "k" * 40))
    if "/" in file:
        assert not is_logged_in()
        monkeypatch.setenv("NETRC", str(path))
    assert is_logged_in()


@pytest.mark.parametrize(
    "content",
    [
        ENTRY.format("example.org", "k"),
        "default login user password k\n",
        "machine api.wandb.ai nonsense",
        "\x00\xff",
        "",
    ],
)
def test_other_netrc_files_are_no_login(nobody, content):
    (nobody / ".netrc").write_text(content, encoding="latin-1")
    assert not is_logged_in()


@pytest.mark.parametrize("source", ["environment", "settings"])
def test_login_at_a_server_of_ones_own(nobody, monkeypatch, source):
    (nobody / ".netrc").write_text(ENTRY.format("wandb.example.org:8080", "k" * 40))
    assert not is_logged_in()
    if source == "environment":
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/")
    else:
        settings = nobody / ".config" / "wandb" / "settings"
        settings.parent.mkdir(parents=True)
        settings.write_text("[default]\nbase_url = https://wandb.example.org:8080\n")
    assert is_logged_in()


@pytest.mark.parametrize(
    ("content", "found"), [("[default]\napi_key = k\n", True), ("[default]\n", False), ("[", False)]
)
def test_login_by_wandbs_settings(nobody, monkeypatch, content, found):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(nobody))
    (nobody / "settings").write_text(content)
    assert is_logged_in() == found
