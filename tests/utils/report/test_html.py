import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.utils.report.rig import OFFLINE, ONLINE, run, write_record
from utils.records.ledger import Axes
from utils.records.selection import select
from utils.report import Report, write_report
from utils.report.html import to_html
from utils.report.plots import Plot
from utils.report.tables import build_table

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
ALLOWED = re.findall(
    r"\w+",
    "html head meta title style body main section h1 h2 h3 p div table thead tbody tr th td small sup b ul ol li "
    "details summary span code figure picture source img figcaption dl dt dd",
)


class Elements(HTMLParser):
    """Elements and attributes as a browser sees them; checks that every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.found, self.attributes, self.open, self.text = set(), [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.attributes += attributes
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(*runs, group="study", plots=None):
    report = Report(Path(), group)
    lost = [found.reason for found in runs if not found.values]
    cells = select([found for found in runs if found.values], Axes(("kappa",)))
    report.__dict__ |= {
        "runs": runs,
        "cells": cells,
        "table": build_table(cells, unreadable=lost),
        "plots": plots or {},
    }
    return to_html(report)


def test_hostile_names_stay_text():
    values = dict.fromkeys(("dataset", "model", "notes", "backbone", "kappa"), HOSTILE)
    runs = [run(HOSTILE, seed, {"A_f": 50.0}, folder=HOSTILE, command=[HOSTILE], **values) for seed in (0, 1)]
    runs += [run("BN", 0, None, state="damaged", reason=HOSTILE, **{**values, "kappa": "other"})]
    elements = Elements(
        page_of(*runs, group=HOSTILE, plots={f"{HOSTILE} matrix": Plot(HOSTILE, b"png", b"png", b"", b"")})
    )
    assert elements.found <= set(ALLOWED)
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert {value for name, value in elements.attributes if name in ("src", "srcset")} == {"data:image/png;base64,cG5n"}
    assert elements.text.count(HOSTILE) > 5


def test_page_is_self_contained():
    page = page_of(run("BN", 0, {"A_f": 50.0}), plots={"x accuracy": Plot("x", b"1", None, b"", b"")})
    assert not re.search(r"(src|href)=\"(?!data:)|@import|url\(", page)
    assert "default-src 'none'" in page


def test_every_figure_says_what_is_behind_it():
    runs = [run("BN", seed, {"A_f": value}) for seed, value in enumerate((50.0, 51.0, 49.5))]
    runs += [run("AdaB2N", seed, {"A_f": 70.0 + seed}, kappa=0.4) for seed in (0, 1, 2)]
    runs += [run("AdaB2N", 0, {"A_f": 10.0}, kappa=1.0)]
    elements = Elements(page_of(*runs))
    (tooltip, *_) = [value for name, value in elements.attributes if name == "title" and "kappa=0.4" in value]
    assert "n = 3" in tooltip
    assert "best of 2 (oracle)" in tooltip
    assert "against BN: p =" in tooltip
    assert "71.00 ± 1.00" in elements.text


def test_published_figure_stands_under_ours():
    page = page_of(run("TBBN", 0, {"A_f": 37.26, "A": [1.0] * 10}, **OFFLINE))
    assert "<small>published 38.46 (−1.20)</small>" in page
    assert "CVPR 2023" in Elements(page).text


def test_missing_cells_have_footnotes_and_lost_records_are_listed():
    runs = [run("BN", 0, {"A_f": 50.0}), run("GN", 0, None, state="diverged", reason="diverged")]
    lost = run("X", 0, None, state="damaged", reason="damaged record lost")
    lost.values.clear()
    page = page_of(*runs, lost)
    assert "–<sup>1</sup>" in page
    assert "<li>seed 0 diverged</li>" in page
    assert "<li>not in the table: damaged record lost</li>" in page


def test_every_row_can_be_traced_to_its_command_lines():
    used = run("TBBN", 0, {"A_f": 50.0}, folder="best", command=["python", "utils/main.py", "--notes", "a b"], kappa=1)
    other = run("TBBN", 0, {"A_f": 20.0}, folder="worse", command=["python", "other"], kappa=2)
    text = Elements(page_of(used, other)).text
    assert "runs in the table: 1, others: 1" in text
    assert "python utils/main.py --notes 'a b'" in text
    assert text.index("python utils/main.py") < text.index("setting not selected · worse")


def test_finals_of_a_search_are_marked_as_held_out():
    final = run("AdaB2N", 0, {"A_f": 61.5}, kappa=1)
    search = [
        run("AdaB2N", 0, {"A_f": 66.0 + kappa}, folder=f"k{kappa}", kappa=kappa, validation=0.1) for kappa in (1, 2)
    ]
    search[1].metrics["class_il"]["A_f"] = 60.25
    text = Elements(page_of(run("BN", 0, {"A_f": 50.0}), final, *search)).text
    assert "AdaB2N-0 · final Class-IL 61.50 % on test data" in text
    assert "k1 · final Class-IL 67.00 % on held-out training data" in text
    assert "k2 · final Class-IL 60.25 % on held-out training data" in text
    assert text.count("on held-out training data") == 2


def test_heads_of_neighbours_are_shared():
    runs = [
        run("BN", 0, {"A_f": 1.0}, model=model, buffer_size=size) for model in ("er", "derpp") for size in (200, 500)
    ]
    page = page_of(*runs)
    spans = re.findall(r'colspan="(\d)"><span>([^<]*)<', page[: page.index("</thead>")])
    assert spans == [
        ("8", "Split Digits"),
        ("4", "DER++"),
        ("4", "ER"),
        *[("2", "buffer 200"), ("2", "buffer 500")] * 2,
    ]
    assert 'rowspan="4">norm layer' in page


def test_shared_options_and_notes_are_shown_and_places_are_not():
    runs = [run("BN", seed, {"A_f": 1.0}, lr=0.03, nf=16 + seed, data_root="/secret", notes="mine") for seed in (0, 1)]
    page = page_of(*runs)
    assert "<dt>lr</dt><dd>0.03</dd>" in page
    assert "<dt>nf</dt>" not in page
    assert "/secret" not in page
    assert "<li>mine</li>" in page


@pytest.mark.parametrize("plots", ["There are no plots: <x>", {}])
def test_page_without_plots(plots):
    elements = Elements(page_of(run("BN", 0, {"A_f": 1.0}), plots=plots))
    assert "img" not in elements.found
    assert ("There are no plots: <x>" in elements.text) == bool(plots)


def test_report_without_matplotlib_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_record(tmp_path / "group" / "run", {**ONLINE, "nl": "BN", "seed": 0}, [50, 60])
    page = list(write_report(Report(tmp_path, "group")))[-1]
    assert "There are no plots" in page.read_text(encoding="utf-8")


def test_every_run_is_listed_with_its_figure_time_and_memory(tmp_path):
    results = {"timings": {"training_seconds": 61.5, "start_seconds": 2.0}, "peak_memory": {"host_bytes": 300_400_000}}
    for seed, value in ((0, 50), (1, 61)):
        write_record(tmp_path / "group" / f"BN-{seed}", {**ONLINE, "nl": "BN", "seed": seed}, [value, value])
        path = tmp_path / "group" / f"BN-{seed}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (results if seed else {})))
    page = next(path for path in write_report(Report(tmp_path, "group")) if path.name == "report.html").read_text()
    assert "Final average accuracy A_f by seed, time and memory of 2 runs" in page
    assert "<td>BN</td><td>0</td><td>50.00</td><td>50.00</td><td>–</td><td>–</td>" in page
    assert "<td>BN</td><td>1</td><td>61.00</td><td>61.00</td><td>63.50</td><td>300</td>" in page
