"""What a terminal shows, at several widths: nothing is wider, nothing is lost, no word is broken."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.utils.report.rig import OFFLINE, ONLINE, run, write_record
from tests.utils.report.test_norms import write_measured
from utils.config.registry import ROOT
from utils.records.ledger import Axes
from utils.report import Report, show
from utils.report.captions import caption, missing
from utils.report.terminal import show_on

WIDTHS = (60, 80, 100, 200)


class InMemory(Report):
    """A report of runs that lie nowhere."""

    def __init__(self, *runs):
        super().__init__(Path("nowhere"), "group")
        self.runs = list(runs)
        self.axes = Axes()


def draw(report, width, terminal=False):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    show_on(console, report)
    return out.getvalue()


def wide(num_seeds=2):
    """Twelve columns of four layers, every figure another one."""
    places = [
        (dataset, model, size)
        for dataset in ("seq-cifar10", "seq-tinyimg")
        for model in ("er", "derpp", "er_ace")
        for size in (500,)
    ]
    return [
        run(
            norm,
            seed,
            {"A_f": 20 + 3.07 * column + 0.31 * row + seed},
            {"A_f": 60 + 3.07 * column + 0.31 * row + seed},
            dataset=dataset,
            model=model,
            buffer_size=size,
        )
        for column, (dataset, model, size) in enumerate(places)
        for row, norm in enumerate(("BN", "GN", "TBBN", "AdaB2N"))
        for seed in range(num_seeds)
    ]


def narrow():
    return [run(norm, 0, {"A_f": value}, buffer_size=None) for norm, value in (("BN", 50.0), ("TBBN", 60.5))]


def words(text):
    return text.split()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("runs", [narrow(), wide()], ids=["one cell", "twelve columns"])
def test_all_figures_fit_the_width_and_no_word_is_broken(runs, width):
    report = InMemory(*runs)
    shown = draw(report, width)
    assert max(map(len, shown.splitlines())) <= width
    figures = re.findall(r"\d+\.\d\d(?: ± \d+\.\d\d)?", shown[: shown.index("Final average accuracy")])
    expected = [
        f"{entry.mean:.2f}" + (f" ± {entry.std:.2f}" if entry.std else "") for entry in report.table.entries.values()
    ]
    assert sorted(figures) == sorted(expected)
    below = shown[shown.index("Final average accuracy") :]
    assert words(caption(report.table).replace("`", "")) == words(below)[: len(words(caption(report.table)))]
    heads = {word for value in report.cells for word in (value[0], value[1])} | {"Class-IL", "Task-IL"}
    assert heads <= set(words(shown))


def test_nothing_is_wider_than_a_terminal_of_any_width():
    report = InMemory(*wide())
    for width in range(36, 116):
        assert max(map(len, draw(report, width).splitlines())) <= width


def test_columns_are_split_between_cells_and_every_part_names_its_rows():
    shown = draw(InMemory(*wide()), 80)
    parts = shown[: shown.index("Final average")].strip().split("\n\n")
    assert len(parts) == 3
    for part in parts:
        assert [line.split()[0] for line in part.splitlines()[-4:]] == ["BN", "AdaB2N", "GN", "TBBN"]
        assert words(part).count("Class-IL") == words(part).count("Task-IL") == 2


def test_the_best_alone_is_bold():
    shown = draw(InMemory(*narrow()), 80, terminal=True)
    assert re.findall(r"\x1b\[1m\s*(.*?)\x1b\[0m", shown) == ["60.50", "60.50"]


def test_missing_reasons_and_notes_are_wrapped_under_their_dash():
    reason = "the disk was full " * 8
    runs = [*wide(1), run("LN", 0, None, state="started", reason=reason.strip(), dataset="seq-cifar10", model="er")]
    report = InMemory(*runs)
    shown = draw(report, 60)
    below = shown[shown.index("Missing:") :]
    assert len(re.findall(r"^- ", below, re.MULTILINE)) == len(missing(report.table))
    assert all(line.startswith(("- ", "  ")) for line in below.splitlines()[1:] if line)
    assert words(below.replace("\n- ", "\n"))[1:] == words(" ".join(missing(report.table)))


def test_published_figures_stand_under_ours():
    metrics = {"A_f": 37.26, "A": [1.0] * 10}
    lines = draw(InMemory(run("TBBN", 0, metrics, **OFFLINE)), 80).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("TBBN"))
    assert lines[place + 1].split()[:3] == ["published", "38.46", "(−1.20)"]


def test_a_part_without_published_figures_has_no_row_for_them():
    metrics = {"A_f": 37.26, "A": [1.0] * 10}
    unpublished = {**OFFLINE, "dataset": "seq-other"}
    runs = [run("TBBN", 0, metrics, **values) for values in (OFFLINE, unpublished)]
    shown = draw(InMemory(*runs), 50)
    assert shown.count("\nTBBN ") == 2
    assert shown.count("\n  published") == 1


@pytest.mark.parametrize("width", [1, 10, 30])
def test_a_terminal_without_room_loses_nothing(width):
    report = InMemory(*wide())
    shown = draw(report, width)
    for entry in report.table.entries.values():
        assert f"{entry.mean:.2f} ± {entry.std:.2f}" in shown


@pytest.mark.parametrize(
    "name", ["[bold]x[/bold]", "x" * 300, "名" * 30, "a b\nc", "\x1b[31mred", ":smile:"], ids=ascii
)
def test_names_from_users_are_text(name):
    shown = draw(InMemory(run(name, 0, {"A_f": 51.25}, dataset=name), run("BN", 0, {"A_f": 50.0}, dataset=name)), 80)
    assert "51.25" in shown
    assert "\x1b" not in shown
    kept = "".join(character for character in name if character.isprintable() and character != " ")
    assert set(kept) <= set(shown)


def test_an_empty_group_is_said(tmp_path):
    (tmp_path / "group").mkdir()
    assert "no run is complete yet" in " ".join(words(draw(Report(tmp_path, "group"), 60)))


def test_what_retuning_did_is_shown(tmp_path):
    for norm, retuned in {"BN": [60, 60], "TBBN": [61, 61]}.items():
        write_measured(tmp_path, norm, [50, 60], retuned)
    shown = draw(Report(tmp_path, "group"), 60)
    assert "Re-tuning the norm layers alone" in shown
    assert shown.count(" → ") >= 4
    assert max(map(len, shown.splitlines())) <= 60


# -- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    for norm, value in {"BN": 50, "TBBN": 60}.items():
        write_record(tmp_path / "group" / norm, {**ONLINE, "nl": norm, "seed": 0}, [value, value])
    return tmp_path


def in_terminal(results, width, **environment):
    """What `run.py table` shows on a real terminal of that width."""
    ours, theirs = pty.openpty()
    command = f"stty cols {width}; {sys.executable} run.py table --group group --results_dir {results}"
    shown = {**os.environ, "TERM": "xterm", **environment}
    process = subprocess.Popen(["sh", "-c", command], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=shown)
    os.close(theirs)
    read = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        read += part
    os.close(ours)
    assert process.wait() == 0
    return read.decode().replace("\r\n", "\n")


def test_a_terminal_shows_a_drawing_and_a_dumb_one_markdown(results):
    shown = in_terminal(results, 60)
    assert "───" in shown
    assert re.search(r"\x1b\[1m *60\.00\x1b\[0m", shown)
    assert "|---|" not in shown
    plain = in_terminal(results, 60, TERM="dumb")
    assert "|---|" in plain
    assert "\x1b" not in plain


def test_elsewhere_it_is_the_file(results, capsys):
    report = Report(results, "group")
    show(report)
    assert capsys.readouterr().out == f"{report.markdown}\n"


def test_without_rich_it_is_markdown(results, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    show(Report(results, "group"))
    assert "| TBBN | 1 | **60.00** |" in capsys.readouterr().out
