"""Whole runs on small images, in this process."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from tests.utils.main_rig import only_folder, outcome, result_of, starter
from utils.config.registry import METHODS, NORMS, ROOT
from utils.data.augment import normalise
from utils.errors import BUSY
from utils.launch.cli import main as launch
from utils.main import main, make_network
from utils.records.metrics import METRICS
from utils.records.record import Record
from utils.run.environment import _MEMORY_FORMATS

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture
def start(small_root, tmp_path):
    return starter(small_root, tmp_path / "results")


def pairs():
    """Every method with every norm layer; the quick ones take each method once and each layer at least once."""
    for row, method in enumerate(METHODS.names()):
        for column, norm in enumerate(NORMS.names()):
            is_quick = column == row % len(NORMS.names())
            yield pytest.param(method, norm, marks=() if is_quick else pytest.mark.slow)


@pytest.mark.parametrize(("method", "norm"), list(pairs()))
def test_every_norm_runs_inside_every_method(start, tmp_path, method, norm):
    groups = ["--adjust_groups"] if norm in ("GN", "CN") else []
    assert start(*groups, method=method, norm=norm) == 0
    result = result_of(tmp_path / "results")
    assert result["steps"] == 12 or METHODS.get(method).protocol == "offline"
    assert 0 <= result["metrics"]["class_il"]["A_f"] <= result["metrics"]["task_il"]["A_f"] <= 100
    total = result["counts"]["total"]
    measured = [[value is not None for value in row] for row in total]
    last_only = [[False] * 3, [False] * 3, [True] * 3]
    triangle = [[True, False, False], [True, True, False], [True, True, True]]
    assert measured == (last_only if method == "joint" else triangle)
    assert {value for row in total for value in row} <= {16, None}


@pytest.mark.parametrize("method", METHODS.names())
def test_a_memory_format_changes_no_loss(start, tmp_path, monkeypatch, method):
    """In double precision: in single precision the last bits of a loss differ, and in training they grow."""
    monkeypatch.setattr("utils.main.make_network", lambda *parts: make_network(*parts).double())
    monkeypatch.setattr("utils.data.augment.normalise", lambda *parts: normalise(*parts).double())
    losses = {}
    for name in ("contiguous_format", "channels_last"):
        monkeypatch.setitem(_MEMORY_FORMATS, ("cpu", "fp32"), getattr(torch, name))
        assert start(method=method, results=tmp_path / name, debug_mode=3) == 0
        folder = only_folder(tmp_path / name)
        assert json.loads((folder / "config.json").read_text())["environment"]["memory_format"] == name
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses[name] = [value for line in lines for key, value in line.items() if isinstance(value, float)]
    assert losses["channels_last"] == pytest.approx(losses["contiguous_format"], rel=1e-5)


@pytest.mark.slow
def test_replay_and_joint_training_beat_fine_tuning_by_far(start, tmp_path):
    """Of two seeds each: these runs are so short that a single one may end anywhere."""
    final = {}
    for method in ("sgd", "er", "joint"):
        found = []
        for seed in range(2):
            results = tmp_path / method / str(seed)
            assert start(results=results, method=method, epochs=12, seed=seed, lr=0.01) == 0
            found.append(result_of(results)["metrics"]["class_il"]["A_f"])
        final[method] = sum(found) / len(found)
    assert final["sgd"] + 20 < min(final["er"], final["joint"])


def test_a_run_takes_one_thread_and_its_command_says_so(start, tmp_path, monkeypatch):
    found = {}
    for name, variable in (("none", None), ("two", "2")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if variable:
            monkeypatch.setenv("OMP_NUM_THREADS", variable)
        words = "--model sgd --dataset seq-digits --nf 4 --lr 0.05 --debug_mode 1 --device cpu --nowand 1"
        assert main([*words.split(), "--results_dir", str(tmp_path / name)]) == 0
        config = json.loads((only_folder(tmp_path / name) / "config.json").read_text())
        found[name] = (config["environment"]["threads"], config["command"][-2:])
    assert found == {"none": (1, ["--threads", "1"]), "two": (2, ["--threads", "2"])}


def test_a_dry_run_says_what_the_run_would_be_and_leaves_nothing(start, tmp_path, capsys):
    assert start("--dry_run", norm="AdaB2N", kappa=0.7) == 0
    shown = capsys.readouterr().out
    assert "12 training steps; not run" in shown
    assert "--kappa 0.7  (typed)" in shown
    assert "--epochs 1  (protocol online)" in shown
    assert not (tmp_path / "results").exists()
    assert start(norm="AdaB2N", kappa=0.7) == 0
    assert start("--dry_run", norm="AdaB2N", kappa=0.7) == 0
    assert "12 training steps; complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["--num_groups", "3"], {"norm": "GN"}, "GN: 4 channels cannot be divided into 3 groups"),
        ([], {"buffer_mode": "ring", "buffer_size": 2}, "--buffer_size 2 leaves a ring no slot per task"),
        (["--precision", "tf32"], {}, "--precision tf32"),
    ],
)
def test_a_dry_run_refuses_what_the_run_itself_would(start, capsys, words, options, message):
    assert start("--dry_run", *words, **options) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_shows_published_values_before_there_are_data(tmp_path, capsys):
    words = "--model er --dataset seq-cifar10 --buffer_size 500 --load_best_args --dry_run --device cpu"
    assert main([*words.split(), "--data_root", str(tmp_path / "none")]) == 0
    shown = capsys.readouterr().out
    assert "er on seq-cifar10 (5 tasks, 10 classes), BN in resnet18, seed 0" in shown
    assert "steps and record are unknown without the data: seq-cifar10: no data found. Give --data_root" in shown
    assert "--batch_size 32  (published setting, " in shown
    assert "record:" not in shown
    assert main([*words.split(), "--data_root", str(tmp_path / "none"), "--nl", "GN", "--num_groups", "3"]) == 2
    assert "cannot be divided into 3 groups" in capsys.readouterr().err
    assert main([*words.split(), "--data_root", str(tmp_path / "none"), "--class_order", "foo"]) == 2
    assert "unknown --class_order 'foo'" in capsys.readouterr().err
    words = "--model er --dataset seq-arrays --buffer_size 500 --lr 0.1 --budget_steps 10 --dry_run --device cpu"
    assert main([*words.split(), "--data_root", str(tmp_path / "none")]) == 0
    shown = capsys.readouterr().out
    assert "er on seq-arrays (unknown classes), BN" in shown
    assert "a budget of 100 rows" in shown


def no_compiler(wanted, *kinds):
    if wanted:
        raise OSError("there is none")


@pytest.mark.parametrize("command", ["--rerun", "--dry_run"])
@pytest.mark.parametrize(
    ("words", "variable", "reason"),
    [
        (["--cuda_graph", "on"], {}, "--cuda_graph on cannot be: --device cpu is no GPU"),
        (["--precision", "tf32"], {}, "--precision tf32 is arithmetic of NVIDIA GPUs"),
        ([], {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "abc"}, "which is no percentage"),
        (["--fused_norms", "on"], {}, "--fused_norms on: the C++ compiler makes no kernels here"),
    ],
    ids=["graph", "precision", "part", "kernels"],
)
def test_a_run_that_cannot_begin_sets_nothing_aside(
    start, tmp_path, capsys, monkeypatch, command, words, variable, reason
):
    assert start() == 0
    folder = only_folder(tmp_path / "results")
    monkeypatch.setattr("backbone.kernels.use_fused_kernels", no_compiler)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    assert start(command, *words) == 2
    assert reason in capsys.readouterr().err
    assert only_folder(tmp_path / "results") == folder


def test_rerun_sets_a_complete_record_aside_and_its_command_does_not(start, tmp_path, capsys):
    assert start() == start() == 0
    assert "--rerun sets it aside and starts over" in capsys.readouterr().out
    folder = only_folder(tmp_path / "results")
    first = (folder / "result.json").stat().st_ino
    assert start("--rerun") == 0
    assert (folder / "result.json").stat().st_ino != first
    assert (folder.with_name(f"{folder.name}.former-1") / "result.json").stat().st_ino == first
    assert "--rerun" not in json.loads((folder / "config.json").read_text())["command"]
    assert "set aside" in capsys.readouterr().out


def test_forward_transfer_and_anytime_accuracy_on_request(start, tmp_path):
    assert start(ignore_other_metrics=0, eval_every=2) == 0
    result = result_of(tmp_path / "results")
    assert result["metrics"]["class_il"]["FWT"] is not None
    assert len(result["untrained"]["class_il"]) == 3
    assert result["counts"]["total"][0] == [16, 16, None]
    assert len(result["anytime"]) == 3 + 3  # four steps a task: once inside, once at the end
    assert result["points"]["total"][1] == [16, None, None]  # the next task's are measured, and not of this one


def test_seen_outputs_only(start, tmp_path):
    assert start(class_il_outputs="seen", method="sgd") == 0
    result = result_of(tmp_path / "results")
    assert result["counts"]["class_il"][0][0] == result["counts"]["task_il"][0][0]


def test_validation_replaces_the_test_set(start, tmp_path):
    assert start("--validation") == 0
    assert result_of(tmp_path / "results")["counts"]["total"][2] == [4, 4, 4]


def test_same_configuration_same_result(start, tmp_path):
    for name in "ab":
        assert start(results=tmp_path / name, norm="AdaB2N") == 0
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_seed_matters(start, tmp_path):
    for seed in (0, 1):
        assert start(results=tmp_path / str(seed), seed=seed) == 0
    assert result_of(tmp_path / "0")["weights_sha256"] != result_of(tmp_path / "1")["weights_sha256"]


def test_complete_run_says_so_and_does_nothing(start, tmp_path, capsys):
    start()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")}
    capsys.readouterr()
    assert start() == 0
    assert "already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*")} == before


def test_a_complete_run_says_what_it_did_not_keep(start, capsys):
    start(keep_model=0)
    capsys.readouterr()
    for asked, note in [
        ({"keep_model": 0}, ""),
        ({}, "note: it did not keep the trained weights (model.pt)\n"),
        ({"keep_model": 0, "keep_checkpoint": 1}, "note: it did not keep the last checkpoint (checkpoint.pt)\n"),
        ({"keep_checkpoint": 1}, "note: it kept neither the trained weights (model.pt) nor the last checkpoint ("),
    ]:
        assert start(**asked) == 0
        shown = capsys.readouterr().out
        assert "already complete" in shown
        assert note in shown
        assert bool(note) == ("note:" in shown)


def test_a_run_that_ended_while_another_one_waited_for_it_is_not_trained_again(start, tmp_path, capsys, monkeypatch):
    opened = Record.open

    def open_late(record, **more):
        monkeypatch.setattr(Record, "open", opened)
        assert start() == 0  # from its beginning to its end, after the one before has looked for a result
        capsys.readouterr()
        return opened(record, **more)

    monkeypatch.setattr(Record, "open", open_late)
    assert start() == 0
    assert "already complete" in capsys.readouterr().out
    lines = (only_folder(tmp_path / "results") / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))


def test_without_a_lock_a_run_goes_on_beside_another_process_and_says_so(start, tmp_path, capsys):
    assert start() == 0
    folder = only_folder(tmp_path / "results")
    shutil.rmtree(folder)
    with contextlib.closing(Record(folder).open()):
        assert start() == BUSY
        assert "is being written by another process" in capsys.readouterr().err
        assert start("--no_lock") == 0
    assert "note: without a lock (--no_lock), another process at the same run would corrupt" in capsys.readouterr().out
    assert (folder / "result.json").exists()


WITHOUT_LOCKS = [
    errno.ENOLCK,
    *(pytest.param(each, marks=pytest.mark.slow) for each in (errno.EOPNOTSUPP, errno.EINVAL)),
]


@pytest.mark.parametrize("number", WITHOUT_LOCKS)
def test_two_processes_at_one_run_never_double_its_lines_without_locks_of_the_system(tmp_path, number):
    words = "--model sgd --dataset seq-digits --nf 4 --lr 0.05 --log_every 5 --device cpu --nowand 1 --threads 1 "
    words += "--debug_mode 10"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/without_flock"), "FAKE_FLOCK": str(number)}
    command = [sys.executable, "utils/main.py", *words.split(), "--results_dir", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(2)]
    shown = [process.communicate(timeout=120)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, BUSY], [0, 0]), shown  # one waits for nobody, or comes when the other is over
    assert any("has no locks: a file stands for one" in text for text in shown)
    lines = (only_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 5


@pytest.mark.parametrize("damage", ['"counts"', '"schema"', "{"])
def test_complete_run_that_is_damaged_is_a_clear_line(start, tmp_path, capsys, damage):
    start()
    path = only_folder(tmp_path / "results") / "result.json"
    path.write_text(path.read_text().replace(damage, '"counds"' if damage != "{" else "", 1))
    assert start() == 2
    assert "is damaged; --rerun sets it aside and runs again" in capsys.readouterr().err


def test_record_of_a_complete_run(start, tmp_path):
    start("--notes", "a <note>", "--wandb_name", "\udcff", keep_checkpoint=0)
    folder = only_folder(tmp_path / "results")
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.jsonl", "result.json", "log.txt", "model.pt")
    }
    assert folder.name.startswith("seq-arrays-er_ace-20-BN-1ep-s0-")
    config = json.loads((folder / "config.json").read_text())
    assert config["values"]["notes"] == "a <note>"
    assert config["origins"]["lr"] == "typed"
    assert config["identity"].startswith(folder.name[-10:])
    assert "--buffer_size" in config["command"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "evaluation"}
    timings = json.loads((folder / "result.json").read_text())["timings"]
    assert min(timings[name] for name in ("start_seconds", "training_seconds", "evaluation_seconds")) > 0
    assert "after task 3/3" in (folder / "log.txt").read_text()


def test_debug_record_is_kept_apart(start, tmp_path):
    assert start(debug_mode=2) == 0
    folder = only_folder(tmp_path / "results")
    assert folder.parent == tmp_path / "results" / "default" / "debug"
    assert json.loads((folder / "result.json").read_text())["steps"] == 6


METRIC = """
from utils.records.metrics import METRICS, Metric

METRICS.register(Metric("worst", "Accuracy on the worst task", lambda run: run.matrix[-1].min()))
"""


def test_a_metric_of_a_plug_in_is_in_the_record_and_the_table(start, tmp_path, capsys):
    (tmp_path / "metric.py").write_text(METRIC)
    try:
        assert start(plugin=tmp_path / "metric.py") == 0
    finally:
        METRICS.pop("worst", None)
    counts = result_of(tmp_path / "results")["counts"]
    worst = min(100 * some / number for some, number in zip(counts["class_il"][-1], counts["total"][-1], strict=True))
    capsys.readouterr()
    words = ["table", "--metric", "worst", "--results_dir", str(tmp_path / "results"), "--group", "default"]
    assert launch(words) == 0  # of a process that knows nothing of the plug-in
    assert f"{worst:.2f}" in capsys.readouterr().out


def test_diverged_run_ends_with_its_own_code_and_is_not_repeated(start, tmp_path, capsys):
    assert start(lr=1e30) == 3
    assert "no longer finite" in capsys.readouterr().err
    folder = only_folder(tmp_path / "results")
    assert json.loads((folder / "failure.json").read_text())["kind"] == "diverged"
    assert not (folder / "result.json").exists()
    assert start(lr=1e30) == 3
    assert "in an earlier start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CUDA error: out of memory", "out of memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", "out of memory"),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)", "out of memory"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "out of memory"),
        ("Unable to find an engine to execute this computation", "out of memory"),
        ("can't allocate memory", "out of memory"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "another one has it"),
    ],
)
def test_a_device_that_has_no_room_or_takes_no_process_has_its_own_code(start, monkeypatch, capsys, text, said):
    def fail(self, loss):
        raise RuntimeError(text)

    monkeypatch.setattr(METHODS.get("er_ace"), "update", fail)
    assert start() == (4 if said == "out of memory" else 7)
    assert said in capsys.readouterr().err


def test_full_disk_loses_nothing_and_says_so(start, tmp_path, monkeypatch, capsys):
    calls = iter(range(100))

    def full(descriptor):
        if next(calls) >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert start(checkpoint_every=0) == 5
    assert "No space left" in capsys.readouterr().err
    assert start() == 0
    assert start(results=tmp_path / "whole") == 0
    assert outcome(tmp_path / "results") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["--num_groups", "3"], {"norm": "GN"}, "GN"),
        ([], {"norm": "CN"}, "--adjust_groups"),
        ([], {"n_tasks": 7}, "--n_tasks"),
        ([], {"data_root": "/nowhere"}, "/nowhere"),
        ([], {"class_order": "0,1,2"}, "class"),
        (["--device", "tpu"], {}, "--device"),
        (["--precision", "tf32"], {}, "--precision"),
        ([], {"buffer_mode": "ring", "buffer_size": 2}, "--buffer_size"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(start, tmp_path, capsys, words, options, message):
    assert start(*words, **options) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and "seq-arrays" in path.name]
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_reduced_precision_runs(start, tmp_path):
    assert start(precision="bf16", norm="AdaB2N") == 0
    assert result_of(tmp_path / "results")["steps"] == 12


def test_a_run_whose_reader_has_gone_ends_as_other_programs_do():
    """Such as after `| head`: with the code of SIGPIPE and without a traceback."""
    command = [sys.executable, "utils/main.py", "--preset", "demo", "--dry_run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        assert run.stderr.read() == "stopped by SIGPIPE\n"
    assert run.returncode == 128 + signal.SIGPIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        run.stdout.close()
    assert run.returncode == 128 + signal.SIGPIPE
