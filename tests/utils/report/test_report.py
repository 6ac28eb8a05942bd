"""One report for the screen, the files and the tracker: everything is made once, and written before it is shown."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.utils.records.wandb_rig import install_fake
from tests.utils.report.rig import ONLINE, write_record
from utils.config.registry import ROOT
from utils.errors import UserError
from utils.launch.cli import main, write_table
from utils.report import Report, plots, report, write_report
from utils.report.report import check_metric
from utils.report.wandb_summary import send_summary


@pytest.fixture
def results(tmp_path):
    for norm, value in {"BN": 50, "TBBN": 60}.items():
        write_record(tmp_path / "results" / "group" / norm, {**ONLINE, "nl": norm, "seed": 0}, [value, value])
    return tmp_path / "results"


def count(monkeypatch, module, name):
    """How often a function was called, as the length of the list that is given."""
    calls, original = [], getattr(module, name)

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_files_screen_and_tracker_share_one_reading_and_one_drawing(results, tmp_path, monkeypatch, capsys):
    folder = install_fake(tmp_path / "packages", monkeypatch)
    read, drawn = count(monkeypatch, report, "collect"), count(monkeypatch, plots, "make_plots")
    found, failure = write_table(results, "group")
    assert failure is None
    tracking = SimpleNamespace(wandb_mode="offline", wandb_entity=None, wandb_project=None)
    send_summary(found, tracking, print)
    assert (folder / "started").exists()
    assert "has the table and the plots" in capsys.readouterr().out
    assert (len(read), len(drawn)) == (1, 1)


def test_tables_do_not_wait_for_plots(results, monkeypatch):
    drawn = count(monkeypatch, plots, "make_plots")
    paths = write_report(Report(results, "group"))
    assert [next(paths).name for _ in range(3)] == ["table.md", "table.tex", "table.csv"]
    assert drawn == []
    assert next(paths).name == "runs.csv"
    assert next(paths).name == "report.html"
    assert len(drawn) == 1


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 0), (errno.EACCES, 0), (errno.ENOSPC, 5), (errno.EIO, 5)])
@pytest.mark.parametrize("command", ["table --group group", "compare group"])
def test_what_was_not_written_is_said_below_what_is_shown(results, monkeypatch, capsys, command, number, code):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    assert main([*command.split(), "--results_dir", str(results)]) == code
    shown = capsys.readouterr()
    assert "60.00" in shown.out
    assert shown.err.startswith("error: cannot write " if code else "note: cannot write ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", ["table --group group", "compare group"])
def test_a_terminal_that_lacks_a_character_gets_another_one(results, encoding, command):
    write_record(results / "group" / "more", {**ONLINE, "nl": "AdaB²N→", "seed": 0}, [50, 50])
    write_record(results / "group" / "second", {**ONLINE, "nl": "BN", "seed": 1}, [51, 52])
    words = [sys.executable, "run.py", *command.split(), "--results_dir", str(results)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ("± 1.06" if encoding == "latin-1" else "? 1.06") in done.stdout.decode(encoding)
    written = next(results.glob("group/table.md" if command.startswith("table") else "group/compare-*.md"))
    assert "± 1.06" in written.read_text(encoding="utf-8")


def test_names_may_be_spelled_as_for_a_run(results, capsys):
    values = {**ONLINE, "model": "er_ace", "nl": "AdaB2N", "seed": 0}
    write_record(results / "group" / "other", values, [10, 10])
    words = ["--models", "er-ACE", "--methods", "AdaB²N", "--datasets", "SEQ_digits", "--scenario", "Class-IL"]
    code, text = table_of(results, capsys, *words)
    assert code == 0
    assert "| norm | settings | seq-digits er_ace 200 Class-IL |" in text
    assert "| AdaB2N | 1 | **10.00** |" in text
    assert "BN |" not in text


def test_files_are_written_before_the_table_is_shown(results, monkeypatch):
    def leave(report):
        raise BrokenPipeError

    monkeypatch.setattr("utils.report.show", leave)
    main(["table", "--group", "group", "--results_dir", str(results)])
    assert (results / "group" / "table.tex").exists()
    assert (results / "group" / "plots" / "seq-digits-er-200-accuracy.svg").exists()


def test_a_table_is_shown_where_nothing_can_be_written(results, capsys):
    (results / "group" / "table.md" / "in the way").mkdir(parents=True)
    assert main(["table", "--group", "group", "--results_dir", str(results)]) == 5
    shown = capsys.readouterr()
    assert "| TBBN | 1 | **60.00** | **60.00** |" in shown.out
    assert shown.err.startswith("error: cannot write ")
    assert shown.err.count("\n") == 1


def test_a_full_disk_comes_after_the_table(results):
    command = f"ulimit -f 0; exec {sys.executable} run.py table --group group --results_dir {results} 2>&1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stdout.startswith("| norm |")
    assert done.stdout.splitlines()[-1].startswith("error: cannot write ")
    assert list((results / "group").glob("*.*")) == []


@pytest.mark.parametrize(("command", "code", "closed"), [("table group", 0, "<&- >&-"), ("table none", 2, "2>&-")])
def test_closed_streams_change_neither_the_end_nor_the_other_streams(results, command, code, closed):
    line = f"{sys.executable} run.py {command} --results_dir {results} {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert len(list(results.glob("group/*.md"))) == (code == 0)


def test_a_missing_group_is_a_mistake(results, capsys):
    assert main(["table", "--group", "none", "--results_dir", str(results)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("Known: group.\n")


def table_of(results, capsys, *words):
    code = main(["table", "--group", "group", "--results_dir", str(results), *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_what_is_asked_for_is_shown(results, tmp_path, capsys):
    write_record(results / "group" / "other", {**ONLINE, "model": "derpp", "nl": "BN", "seed": 0}, [10, 10])
    names = tmp_path / "names.json"
    names.write_text('{"er": "Replay", "TBBN": "Ours"}')
    words = ["--metric", "forgetting", "--scenario", "class_il", "--models", "er", "--methods", "TBBN"]
    code, text = table_of(results, capsys, *words, "--names", str(names))
    assert code == 0
    assert "| norm | settings | seq-digits Replay 200 Class-IL |" in text
    assert "| Ours | 1 | **30.00** |" in text
    assert "BN |" not in text
    written = (results / "group" / "table.csv").read_text()
    assert [line.split(",")[:3] for line in written.splitlines()[1:2]] == [["TBBN", "seq-digits", "er"]]
    assert "forgetting,30" in written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "a_F"], "Did you mean 'A_f'"),
        (["--datasets", "seq-digit"], "unknown --datasets 'seq-digit'. Did you mean 'seq-digits'"),
        (["--models", "x"], "Known: er."),
        (["--methods", "tbn"], "Did you mean 'TBBN'"),
        (["--scenario", "all"], "--scenario"),
        (["--metric", "AAA", "--scenario", "task_il"], "--metric AAA is taken in class_il alone"),
        (["--names", "nothing.json"], "cannot be read"),
    ],
)
def test_what_is_not_there_is_a_mistake(results, capsys, words, message):
    code, text = table_of(results, capsys, *words)
    assert code == 2
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("a_f", "Did you mean 'A_f'"),
        ("forgeting", "Did you mean 'forgetting'"),
        ("A", "unknown --metric 'A'.*Known: A_f, A_a"),
        ("speed", "Known: A_f, A_a"),
        ("FWT", "measured in no run; a run with --ignore_other_metrics 0"),
    ],
)
def test_metrics_that_do_not_exist(results, metric, message):
    with pytest.raises(UserError, match=message):
        check_metric(Report(results, "group").runs, metric)


def test_metric_that_exists(results):
    check_metric(Report(results, "group").runs, "forgetting")
