import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.utils.launch.rig import CONFIG, RESULT
from tests.utils.records.rig import progress
from utils.config.registry import DATASETS, ROOT
from utils.errors import UserError
from utils.launch.cli import main, set_aside
from utils.launch.devices import Devices
from utils.launch.job import Job
from utils.records.record import Record
from utils.records.state import RunState


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert main(["--preset", "demo", "--dry_run", "--results_dir", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr().out
    assert "16 runs: 16 not run" in shown
    assert shown.count("python utils/main.py --model") == 16
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("typed", "percent"), [([], "25"), (["--mps_percent", "40"], "40")])
def test_each_run_of_a_plan_has_the_same_part_of_a_gpu(tmp_path, capsys, monkeypatch, typed, percent):
    monkeypatch.setattr(Devices, "mps_percent", 25)
    monkeypatch.setattr(Devices, "undivided", "")
    assert main(["--preset", "demo", "--dry_run", "--results_dir", str(tmp_path), *typed]) == 0
    shown = capsys.readouterr().out
    assert f", each with {percent} % of the multiprocessors\n" in shown
    assert shown.count(f" --mps_percent {percent} ") == 16


def test_a_part_of_a_gpu_that_is_not_to_be_had_is_not_in_the_plan(tmp_path, capsys):
    assert main(["--preset", "demo", "--dry_run", "--results_dir", str(tmp_path), "--mps_percent", "20"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "--mps_percent has no effect: there is no GPU\n"
    assert "multiprocessors" not in shown.out


@pytest.mark.parametrize("words", [["-y"], ["-y", "--rerun"]], ids=" ".join)
@pytest.mark.parametrize(
    ("options", "variable", "reason"),
    [
        (["--cuda_graph", "on"], None, "--cuda_graph on cannot be: --device cpu is no GPU"),
        (["--precision", "fp32", "tf32"], None, "--precision tf32 is arithmetic of NVIDIA GPUs"),
        ([], "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "which is no percentage"),
    ],
)
def test_a_plan_of_runs_that_cannot_begin_is_refused(tmp_path, capsys, monkeypatch, words, options, variable, reason):
    if variable:
        monkeypatch.setenv(variable, "abc")
    assert main(["--preset", "demo", "--results_dir", str(tmp_path / "results"), *words, *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main(["--preset", "demo", "--results_dir", str(tmp_path / "results"), *options, "--dry_run"]) == 0


def test_runs_that_are_complete_are_asked_for_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Job, "state", lambda self: RunState.COMPLETE)
    monkeypatch.setattr("utils.launch.cli._run", lambda *rest: 0)
    assert main(["--preset", "demo", "-y", "--cuda_graph", "on", "--results_dir", str(tmp_path)]) == 0


def test_a_foreign_workspace_is_refused_where_the_runs_use_gpus(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Devices, "kinds", {"NVIDIA A100"})
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    assert main(["--preset", "demo", "-y", "--results_dir", str(tmp_path)]) == 2
    assert "CUBLAS_WORKSPACE_CONFIG is ':0:0'" in capsys.readouterr().err


def test_plan_for_programs(tmp_path, capsys):
    assert main(["--preset", "demo", "--json", "--num_seeds", "1", "--results_dir", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["asked"], plan["runs"], plan["merged"]) == (8, 8, 0)
    assert {job["state"] for job in plan["jobs"]} == {"not run"}
    assert plan["jobs"][0]["command"][0] == "utils/main.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "demoo"], "demoo"),
        (["--preset", "demo", "--methods", "BNN"], "Did you mean 'BN'"),
        (["--preset", "demo", "--num_seeds", "2", "--seeds", "1"], "cannot be given together"),
        (["--preset", "demo", "--num_seeds", "0"], "--num_seeds"),
        (["--preset", "demo", "--seeds"], "--seeds: expected at least one argument"),
        (["--preset", "demo", "--speed", "9"], "--speed"),
        (["--preset", "demo", "--selection", "test"], "oracle"),
        (["--preset", "demo", "--search_seeds"], "--search_seeds: expected at least one argument"),
        (["--preset", "demo", "--seeds", "x"], "'x' is not an integer"),
        (["--preset", "demo", "--seeds", "-1"], "must be at least 0"),
        (["--preset", "demo", "--kappa", "much"], "'much' is not a number"),
        (["--preset", "demo", "--jobs", "0"], "must be at least 1"),
        *((["--preset", "demo", "--threads", number], "must be from 1 to") for number in ("0", "100000")),
        *((["--preset", "demo", "--usage_threshold", share], "must be from") for share in ("0", "1.1")),
        (["--preset", "demo", "--usage_threshold", "nan"], "must be finite"),
        *(
            (["--preset", "demo", "--runs_per_gpu", word], "must be auto, or at least 1")
            for word in ("0", "many", "1.5")
        ),
        (["--preset", "demo", "--runs_per_gpu", "0", "--engine", "slurm", "--dry_run"], "must be auto, or at least 1"),
        (["--preset", "demo", "--waitsecs", "-1"], "must be at least 0.1"),
        (["--preset", "demo", "--dry_run", "--group", ""], "--group must be"),
        (["--preset", "demo", "--dry_run", "--interpreter", "/nowhere/python"], "--interpreter /nowhere/python"),
        *(([command, "none"], "unknown group in ") for command in ("status", "table", "cancel")),
        (["status", ""], "unknown group in "),
        (["status", "--data_root", "data"], "--data_root"),  # which it would ignore
        (["--preset", "demo", "--optim_wdd", "0.1"], "unknown option --optim_wdd. Did you mean --optim_wd?"),
        (["--preset", "demo", "--job", "2"], "Did you mean --jobs?"),
        (["--preset", "demo", "--kapa", "0.4"], "Did you mean --kappa?"),
        (["--preset", "demo", "--alpha", "0.4"], "it belongs to method der, method derpp"),
        (["--preset", "demo", "--eval_every", "5", "--eval_images", "90"], "--eval_images 90 leaves out no image"),
        # what is typed comes before data that are missing
        (["--datasets", "seq-cifar10", "--methods", "BN", "TBN"], "Did you mean 'TBBN'"),
        (["--datasets", "seq-cifar10", "seq-cifar100", "--lr", "high"], "--lr"),
        (["--datasets", "seq-cifar10", "--optim_wdd", "0.1"], "Did you mean --optim_wd?"),
        (["--datasets", "seq-cifar10", "--methods", "BN", "--selection", "validation"], "changes nothing"),
        (["--datasets", "seq-cifar10"], "seq-cifar10: no data found"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setenv("CL_DATA_ROOT", str(tmp_path / "no data"))
    assert main([*words, "--results_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("word", "message"),
    [("tabel", "Did you mean 'table'?"), ("stat", "Did you mean 'status'?"), ("demo", "Known: status, table")],
)
def test_an_unknown_command_is_told_with_those_that_are_known(capsys, word, message):
    assert main([word, "--preset", "demo"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: unknown command {word!r}.")
    assert message in error


def test_all_datasets_that_are_missing_are_named_at_once(tmp_path, capsys):
    grid = "--models er_ace --lr 0.1 --datasets seq-cifar10 seq-digits seq-miniimg"
    words = [*grid.split(), "--data_root", str(tmp_path)]
    assert main([*words, "--results_dir", str(tmp_path), "-y"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 datasets cannot be read:")
    for name, folder in (("seq-cifar10", "cifar10"), ("seq-miniimg", "miniimg")):
        assert f"  {name}: no data found" in error
        assert str(tmp_path / folder) in error


def test_search_is_part_of_the_plan(tmp_path, capsys):
    words = ["--preset", "demo", "--kappa", "0.4", "1.0", "--results_dir", str(tmp_path)]
    words += ["--selection", "validation", "--search_seeds", "1"]
    assert main([*words, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 cells of 2 settings, 2 runs per cell (seed 1)" in shown
    assert "then: 4 runs of the best settings" in shown
    assert shown.count("--seed 1 --epochs 4 --buffer_size 500 --kappa") == shown.count("--validation 0.1") == 4
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["selection"], plan["runs"], plan["following"], plan["following_jobs"]) == ("validation", 16, 4, [])


def test_threads_are_those_of_each_run_and_shared_with_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.launch.devices.GpuWatcher.look", lambda self: [])
    monkeypatch.setattr("utils.launch.devices.available_cores", lambda: 6)
    words = ["--preset", "demo", "--dry_run", "--results_dir", str(tmp_path)]
    assert main(words) == 0
    assert "on the CPU: 6 runs at a time with 1 thread each" in capsys.readouterr().out
    assert main([*words, "--threads", "2"]) == 0
    shown = capsys.readouterr().out
    assert "on the CPU: 3 runs at a time with 2 threads each" in shown
    assert shown.count("--threads 2") == 16
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(words) == 0
    assert "with 3 threads each" in capsys.readouterr().out


def test_a_plan_without_its_data_is_shown_and_not_run(tmp_path, capsys):
    words = ["--datasets", "seq-digits", "seq-cifar10", "--models", "er", "--methods", "BN", "--seeds", "0"]
    words += ["--lr", "0.1", "--buffer_size", "50", "--data_root", str(tmp_path), "--results_dir", str(tmp_path)]
    assert main([*words, "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "2 runs: 1 not run, 1 unknown" in shown
    assert shown.count("missing data") == 1
    assert "data --download cifar10" in shown
    assert [line.split("  ")[0] for line in shown.splitlines() if "utils/main.py" in line] == ["not run", "unknown"]
    assert main([*words, "-y"]) == 2
    assert "data --download cifar10" in capsys.readouterr().err


def test_models_are_kept_if_asked_for_and_take_space(tmp_path, capsys):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "--dry_run", "--results_dir", str(tmp_path)]
    words += ["--nf", "64"]  # 44.7 million bytes
    assert main(words) == 0
    assert capsys.readouterr().out.count("--keep_model 0") == 2
    assert main([*words, "--keep_models"]) == 0
    shown = capsys.readouterr().out
    assert "trained weights are kept: about 89 MB in 2 files" in shown
    assert "--keep_model" not in shown.partition("trained")[2]
    assert main([*words, "--keep_model", "1"]) == 2
    assert "--keep_models" in capsys.readouterr().err


def test_complete_runs_that_kept_no_weights_are_told(tmp_path, capsys):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "TBBN", "GN", "--seeds", "0", "--nf", "64"]
    words += ["--results_dir", str(tmp_path), "--group", "group"]
    assert main([*words, "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    with_weights, without, diverged = [Record(tmp_path / "group" / job["name"]) for job in jobs]
    for record in (with_weights, without, diverged):
        record.open().write_config(CONFIG)
        record.close()
    diverged.write_failure({"kind": "diverged", "message": "nan", "step": 1})
    without.write_result(RESULT)

    def shown(*more):
        assert main([*words, "--keep_models", "--dry_run", *more]) == 0
        return capsys.readouterr().out

    kept, note = "trained weights are kept: about {} MB in {}\n", "note: {} no trained weights; --rerun makes them"
    plan = shown()
    assert kept.format(45, "1 file") in plan
    assert note.format("1 complete run has") in plan
    with_weights.write_result(RESULT)
    plan = shown()
    assert "weights are kept" not in plan
    assert note.format("2 complete runs have") in plan
    with_weights.model_path.touch()
    assert kept.format(45, "1 file") in shown()
    plan = shown("--rerun")
    assert kept.format(134, "3 files") in plan
    assert "note:" not in plan


def test_rerun_sets_the_records_of_the_plan_aside(tmp_path, capsys):
    for name in ("one", "two"):
        record = Record(tmp_path / "group" / name).open()
        record.write_config(CONFIG)
        record.close()
    jobs = [SimpleNamespace(record=Record(tmp_path / "group" / name)) for name in ("one", "two", "three")]
    held = Record(tmp_path / "group" / "two").open()
    with pytest.raises(UserError, match=r"--rerun: a process is running .*two"):
        set_aside(jobs)
    assert (tmp_path / "group" / "one").exists()
    held.close()
    set_aside(jobs)
    assert sorted(path.name for path in (tmp_path / "group").glob("[a-z]*")) == ["one.former-1", "two.former-1"]
    assert "set aside 2 records" in capsys.readouterr().out


def test_status_tells_what_the_records_say(tmp_path, capsys):
    for name in ("done", "diverged", "started", "running"):
        record = Record(tmp_path / "group" / name).open()
        record.write_config(CONFIG)
        if name == "done":
            record.write_result(RESULT)
        if name == "diverged":
            record.write_failure({})
        if name == "started":
            record.write_progress(progress())
        if name != "running":
            record.close()
    assert main(["status", "--results_dir", str(tmp_path), "--group", "group"]) == 0
    shown = capsys.readouterr().out
    assert "1 complete, 1 running, 1 diverged, 1 started" in shown
    assert "started   started  task 2/3, step 50/120, loss 0.25" in shown
    assert "running   running" in shown


def test_what_is_there_and_what_can_be_fetched_is_listed(tmp_path, capsys):
    assert main(["data", "--data_root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == DATASETS.names()
    assert "seq-digits: included in the repository, 1797 images of 16x16" in lines
    assert any(str(tmp_path / "cifar10") in line for line in lines)
    assert lines[-1] == "with an official source (--download): cifar10 cifar100 dissimilar"


def test_datasets_of_a_plug_in_are_listed_too(tmp_path, capsys):
    file = tmp_path / "flowers.py"
    file.write_text(
        "from datasets.arrays import Dataset\n"
        "from datasets.layouts.four_arrays import FourArrays\n"
        "from utils.config.registry import DATASETS\n"
        "@DATASETS.register('seq-flowers')\n"
        "class SeqFlowers(Dataset):\n"
        "    num_tasks, num_classes, image_size, folder, layouts = 1, 1, 16, 'flowers', (FourArrays(),)\n"
        "    class_names, mean, std = ('aster',), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)\n"
    )
    try:
        assert main(["data", "--plugin", str(file), "--data_root", str(tmp_path)]) == 0
    finally:
        DATASETS._parts.pop("seq-flowers", None)
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("seq-flowers: ")]
    assert f"four arrays {tmp_path / 'flowers'}/" in line


@pytest.mark.parametrize("name", ["cifar10", "seq-cifar10", "seq_cifar10"])
def test_a_dataset_is_fetched_by_its_name_or_its_folders(name, tmp_path, capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr(DATASETS.get("seq-cifar10"), "download", lambda dataset, root: fetched.append(root))
    assert main(["data", "--download", name, "seq-digits", "--data_root", str(tmp_path)]) == 0
    assert fetched == [tmp_path]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["seq-cifar10", "seq-digits"]


def test_an_unknown_name_is_told_before_anything_is_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(DATASETS.get("seq-cifar10"), "download", lambda dataset, root: pytest.fail("fetched"))
    assert main(["data", "--download", "cifar10", "cifar-1000"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown dataset 'cifar-1000'.")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([command, "--help"] for command in ("status", "table", "compare", "data", "cancel")),
        ["status", "--results_dir", "RESULTS", "--group", "group"],
        ["data", "--data_root", "RESULTS"],
    ],
    ids=" ".join,
)
def test_quick_commands_need_no_torch(tmp_path, words):
    (tmp_path / "group").mkdir()
    words = [str(tmp_path) if word == "RESULTS" else word for word in words]
    script = (
        "import sys\nfrom utils.launch.cli import main\n"
        f"try:\n    assert main({words!r}) == 0\nexcept SystemExit as error:\n    assert not error.code\n"
        "assert not {'torch', 'torchvision', 'pandas', 'GPUtil', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    command = f"{sys.executable} {ROOT / 'run.py'} --preset demo --dry_run --results_dir {tmp_path} | head -1"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("16 runs")
    assert shown.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["--preset demo --dry_run", "status --group group"])
def test_a_full_disk_under_the_output_is_one_line(tmp_path, words):
    (tmp_path / "group").mkdir()
    command = [sys.executable, str(ROOT / "run.py"), *words.split(), "--results_dir", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (5, "error: standard output: No space left on device\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


ONE_RUN = "--preset demo --seeds 0 --methods BN --models er --nf 4 --nowandb"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        *((answer, 1) for answer in ("n\n", "No\n", "", "maybe\n", "maybe\nn\ny\n")),
        *((answer, "run") for answer in ("\n", "y\n", "YES\n", "maybe\ny\n", None)),
    ],
    ids=repr,
)
def test_only_a_terminal_is_asked_and_its_end_is_a_no(tmp_path, capsys, monkeypatch, typed, code):
    """None: there is no standard input at all."""
    monkeypatch.setattr("utils.launch.cli._run", lambda *arguments: "run")
    monkeypatch.setattr("sys.stdin", None if typed is None else Terminal(typed))
    assert main([*ONE_RUN.split(), "--results_dir", str(tmp_path)]) == code
    shown = capsys.readouterr().out
    is_unclear = (typed or "").startswith("maybe")
    assert shown.count("start? [Y/n]") == (0 if typed is None else 1 + is_unclear)
    assert ("'maybe' is neither yes nor no\n" in shown) == is_unclear
    assert shown.endswith("nothing is started\n") == (code == 1)


def test_a_plan_that_is_over_asks_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.launch.cli._run", lambda *arguments: "run")
    monkeypatch.setattr("utils.launch.plan.Job.state", lambda self: RunState.COMPLETE)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main([*ONE_RUN.split(), "--results_dir", str(tmp_path)]) == "run"
    assert "1 run: 1 complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ("--models lucir er", ["10", "1"]),
        ("--models lucir er --epochs 2", ["2", "2"]),
        ("--models joint --protocol offline", ["10"]),
        ("--models lucir er --preset adab2n-online", ["1", "1"]),
        ("--models lucir --preset tbbn-layers", ["10"]),
    ],
)
def test_offline_methods_take_their_own_epochs_unless_a_number_is_asked_for(tmp_path, capsys, words, epochs):
    where = ["--datasets", "seq-digits", "--methods", "BN", "--seeds", "0", "--results_dir", str(tmp_path)]
    assert main([*words.split(), *where, "--lr", "0.1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [job["name"].split("-")[-3].removesuffix("ep") for job in plan["jobs"]] == epochs


@pytest.mark.slow
def test_a_reader_that_has_gone_stops_no_run(small_root, tmp_path):
    """Also the table is written, which would be shown after the last run."""
    grid = "--datasets seq-arrays --n_tasks 3 --seeds 0 --methods BN --models er --buffer_size 20 --lr 0.05 --nf 4 "
    grid += f"--data_root {small_root} --results_dir {tmp_path} --group group --nowandb -y"
    words = [sys.executable, str(ROOT / "run.py"), *grid.split()]
    launcher = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not launcher.stdout.readline().startswith("started"):
        pass
    launcher.stdout.close()
    errors = launcher.stderr.read()
    launcher.wait(timeout=120)
    assert errors == ""
    assert (tmp_path / "group" / "table.md").exists()


def test_a_plan_whose_every_run_has_its_answer_ends_with_0_diverged_ones_included(tmp_path, capsys):
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "TBBN", "--seeds", "0", "--nf", "4", "--nowandb"]
    words += ["--results_dir", str(tmp_path), "--group", "group"]
    assert main([*words, "--json"]) == 0
    complete, diverged = [
        Record(tmp_path / "group" / job["name"]) for job in json.loads(capsys.readouterr().out)["jobs"]
    ]
    for record in (complete, diverged):
        record.open().write_config(CONFIG)
        record.close()
    complete.write_result(RESULT)
    diverged.write_failure({"kind": "diverged", "message": "the loss is no longer finite", "step": 3})
    assert main([*words, "-y"]) == 0


@pytest.mark.parametrize(("codes", "expected"), [("5 5 5", 5), ("5 5 5 5", 5), ("5 2", 1), ("2 2", 1)])
def test_a_full_disk_is_the_exit_code_if_all_that_failed_failed_for_it(tmp_path, capsys, codes, expected):
    """With a program in the place of Python that ends the run of each seed with one of these codes."""
    program = tmp_path / "program"
    seed = 'while [ "$1" != --seed ]; do shift; done'
    program.write_text(f"#!/bin/bash\n{seed}\ncodes=({codes})\necho it says why\nexit ${{codes[$2]}}\n")
    program.chmod(0o755)
    words = ["--preset", "demo", "--models", "er", "--methods", "BN", "--num_seeds", str(len(codes.split()))]
    words += ["--nowandb", "-y", "--jobs", "1", "--interpreter", str(program), "--results_dir", str(tmp_path)]
    assert main(words) == expected
    assert "it says why" in capsys.readouterr().out
