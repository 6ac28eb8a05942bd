import json
import subprocess
import sys

import pytest

from utils.launch.cli import main
from utils.record import Record
from utils.registry import ROOT


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert main(["--preset", "demo", "--dry_run", "--results_dir", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr().out
    assert "24 runs: 24 new" in shown
    assert shown.count("python utils/main.py --model") == 24
    assert not (tmp_path / "results").exists()


def test_plan_for_programs(tmp_path, capsys):
    assert main(["--preset", "demo", "--json", "--num_seeds", "1", "--results_dir", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["asked"], plan["runs"], plan["merged"]) == (12, 12, 0)
    assert {job["state"] for job in plan["jobs"]} == {"new"}
    assert plan["jobs"][0]["command"][0] == "utils/main.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "demoo"], "demoo"),
        (["--preset", "demo", "--methods", "BNN"], "Did you mean 'BN'"),
        (["--preset", "demo", "--num_seeds", "2", "--seeds", "1"], "cannot be given together"),
        (["--preset", "demo", "--num_seeds", "0"], "--num_seeds"),
        (["--preset", "demo", "--seeds"], "nothing to run"),
        (["--preset", "demo", "--speed", "9"], "--speed"),
        (["status", "--group", "none"], "none"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, words, message):
    assert main([*words, "--results_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_status_tells_what_the_records_say(tmp_path, capsys):
    for name in ("done", "diverged", "started", "running"):
        record = Record(tmp_path / "group" / name).open()
        record.write_config({})
        if name == "done":
            record.write_result({})
        if name == "diverged":
            record.write_failure({})
        if name == "started":
            record.append_metrics({"kind": "train", "task": 1, "step": 150, "loss": 0.25})
        if name != "running":
            record.close()
    assert main(["status", "--results_dir", str(tmp_path), "--group", "group"]) == 0
    shown = capsys.readouterr().out
    assert "1 complete, 1 diverged, 2 started" in shown
    assert "started   started  task 2, step 150, loss 0.250" in shown
    assert "running   running" in shown


def test_data_says_what_was_found(tmp_path, capsys):
    assert main(["data", "--data_root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "seq-digits: embedded" in shown
    assert str(tmp_path / "cifar10") in shown


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["table", "--help"], ["data", "--help"]])
def test_help_needs_no_torch(words):
    script = (
        "import sys\nfrom utils.launch.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n"
        "    assert not {'torch', 'pandas', 'GPUtil'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
