import csv
import io
import json

import pandas
import pytest

from tests.utils.report.rig import HOSTILE, ONLINE, published, run, table_of, write_record
from utils.records.collect import collect
from utils.records.selection import select
from utils.report.captions import notes
from utils.report.frames import make_frame, to_csv
from utils.report.tables import build_table


def write_run(root, seed, value, **environment):
    folder = root / "group" / f"BN-{seed}"
    write_record(folder, {**ONLINE, "nl": "BN", "seed": seed}, [value, value])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"environment": environment}))


def test_a_row_per_run_gives_the_figures_of_the_table():
    cells = select([run(norm, seed, {"A_f": 50.0 + seed}) for norm in ("TBBN", "BN") for seed in (0, 1, 2)])
    frame, table = make_frame(cells), build_table(cells)
    assert list(frame["norm"]) == ["BN"] * 3 + ["TBBN"] * 3
    assert list(frame["seed"]) == [0, 1, 2] * 2
    assert set(frame["dataset"]) == {"seq-digits"}
    means = frame.groupby("norm")["class_il A_f"].mean()
    assert means["BN"] == table.entries["BN", table.columns[0]].mean
    assert frame["class_il F"].isna().all()


def test_no_run_gives_an_empty_frame():
    assert make_frame({}).empty


def test_the_file_can_be_read_again(tmp_path):
    write_run(tmp_path, 0, 50, device="cpu", cpu="Some CPU", threads=1)
    frame = make_frame(select(collect(tmp_path, "group")))
    frame.to_csv(tmp_path / "runs.csv", index=False)
    (row,) = pandas.read_csv(tmp_path / "runs.csv").to_dict("records")
    assert (row["buffer_size"], row["class_il A_f"], row["processor"], row["threads"]) == (200, 50.0, "Some CPU", 1)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({"device": "cpu", "cpu": "A", "threads": 1}, None),
        ({}, None),
        ({"device": "cpu", "cpu": "A", "threads": 2}, "A with 1 thread: seed 0; A with 2 threads: seed 1"),
        ({"device": "H100", "cpu": "A", "threads": 1}, "A with 1 thread: seed 0; H100 with 1 thread: seed 1"),
        (
            {"device": "cpu", "cpu": "A", "threads": 1, "fused_norms": True},
            "A with 1 thread: seed 0; A with 1 thread and fused norm layers: seed 1",
        ),
        (
            {"device": "cpu", "cpu": "A", "threads": 1, "fused_norms": True, "norm_compiler": "GCC 12.2.0"},
            "A with 1 thread: seed 0; A with 1 thread and fused norm layers: seed 1",
        ),
    ],
    ids=["alike", "unknown", "threads", "device", "kernels", "compiler"],
)
def test_a_cell_that_mixes_machines_says_so(tmp_path, second, told):
    check_note(tmp_path, {"device": "cpu", "cpu": "A", "threads": 1}, second, told)


GPU = {"device": "H100", "cpu": "A", "threads": 1, "fused_norms": True}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"multiprocessors": 33}, {"multiprocessors": 33, "mps_percent": 25.0}, None),
        ({}, {"multiprocessors": 33, "norm_compiler": "Triton 3.6.0"}, None),
        (
            {"multiprocessors": 132, "norm_compiler": "Triton 3.6.0"},
            {"multiprocessors": 33, "norm_compiler": "Triton 3.6.0"},
            "H100 with 1 thread and 132 multiprocessors and fused norm layers: seed 0; "
            "H100 with 1 thread and 33 multiprocessors and fused norm layers: seed 1",
        ),
        (
            {"multiprocessors": 132, "norm_compiler": "Triton 3.6.0"},
            {"multiprocessors": 132, "norm_compiler": "Triton 3.7.0"},
            "H100 with 1 thread and fused norm layers (Triton 3.6.0): seed 0; "
            "H100 with 1 thread and fused norm layers (Triton 3.7.0): seed 1",
        ),
    ],
    ids=["alike", "unknown", "multiprocessors", "compiler"],
)
def test_a_cell_that_mixes_parts_of_a_gpu_or_compilers_says_so(tmp_path, first, second, told):
    """What records of earlier versions do not have differs from nothing."""
    check_note(tmp_path, GPU | first, GPU | second, told)


def check_note(tmp_path, first, second, told):
    write_run(tmp_path, 0, 50, **first)
    write_run(tmp_path, 1, 60, **second)
    found = [note for note in notes(build_table(select(collect(tmp_path, "group")))) if "different hardware" in note]
    line = f"seq-digits er 200, BN: the seeds ran on different hardware, thread counts or kernels ({told}), which by"
    assert found == ([f"{line} itself changes results"] if told else [])


def test_a_run_that_went_on_under_another_version_says_so(tmp_path):
    write_run(tmp_path, 0, 50, torch="2.5.1", threads=1)
    path = tmp_path / "group" / "BN-0" / "config.json"
    environments = [{"torch": version, "threads": 1} for version in ("2.4.0", "2.5.1")]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"environments": environments}))
    found = [note for note in notes(build_table(select(collect(tmp_path, "group")))) if "was resumed" in note]
    where = "seq-digits er 200, BN: seed 0 was resumed in another environment (torch 2.4.0, then 2.5.1)"
    assert found == [f"{where}, which by itself changes results"]


def test_csv_has_published_figure_deviation_and_source():
    rows = list(csv.DictReader(io.StringIO(to_csv([published(37.26)]))))
    first = next(row for row in rows if row["norm"] == "TBBN" and row["scenario"] == "class_il")
    assert (first["published"], float(first["deviation"])) == ("38.46", pytest.approx(-1.2))
    assert "CVPR 2023" in first["published_source"]
    assert {row["published"] for row in rows if row["norm"] == "LN" or row["scenario"] == "task_il"} == {""}


def test_csv_holds_every_table():
    runs = select([run("BN", 0, {"A_f": 5.0, "forgetting": 7.0})])
    rows = csv.DictReader(io.StringIO(to_csv([build_table(runs), build_table(runs, "forgetting")])))
    assert {(row["metric"], row["mean"]) for row in rows} == {("A_f", "5"), ("forgetting", "7")}


def test_csv_keeps_names_as_they_are():
    (first, *_) = csv.DictReader(io.StringIO(to_csv([table_of(run(HOSTILE, 0, {"A_f": 1.0}))])))
    assert first["norm"] == HOSTILE


def test_csv_says_what_was_tested_on_held_out_data():
    runs = [run("BN", 0, {"A_f": 1.0}, model=model, validation=share) for model, share in (("er", 0.1), ("derpp", 0.0))]
    rows = csv.DictReader(io.StringIO(to_csv([table_of(*runs)])))
    assert {(row["model"], row["tested_on"]) for row in rows} == {
        ("er", "held-out training data"),
        ("derpp", "test data"),
    }
