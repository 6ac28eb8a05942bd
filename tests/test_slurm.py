"""Grids on a real Slurm of two nodes, and what can happen to them there."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests import slurm_rig
from utils import slurm
from utils.config.registry import ROOT
from utils.launch.cli import main

pytestmark = pytest.mark.skipif(bool(slurm_rig.why_not()), reason=slurm_rig.why_not() or "not skipped")
FEW = (
    "--preset demo --datasets seq-arrays --models er --methods BN --seeds 0 1 --n_tasks 3 --nf 8 --lr 0.02 "
    "--epochs 10 --buffer_size 20 --minibatch_size 4 --batch_size 4 "
    "--checkpoint_every 0.5 --nowandb -y --group few"
)
DEMO = (
    "--preset demo --datasets seq-arrays --models er er_ace --methods BN GN TBBN AdaB2N --seeds 0 1 --n_tasks 3 "
    "--nf 4 --num_groups 4 --lr 0.02 --epochs 1 --buffer_size 20 --nowandb -y --group few"
)


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for sockets
    made = slurm_rig.Cluster(folder)
    former = os.environ.get("SLURM_CONF")
    try:
        made.start()
        os.environ["SLURM_CONF"] = made.environment["SLURM_CONF"]
        yield made
    finally:
        made.stop()
        os.environ.pop("SLURM_CONF", None)
        os.environ.update({} if former is None else {"SLURM_CONF": former})
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def often(monkeypatch):
    """Slurm is asked more often, in this process."""
    monkeypatch.setattr(slurm, "ASK_EVERY", 0.5)


def words_of(grid, small_root, results, *more):
    return [*grid.split(), "--data_root", str(small_root), "--results_dir", str(results), *more]


def launch(grid, small_root, results, *more, **process):
    """Start `run.py`, which asks Slurm every second."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils import slurm; slurm.ASK_EVERY = 1.0; "
    code += "from utils.launch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words_of(grid, small_root, results, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **process)


def finish(launcher):
    shown, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, shown
    return shown


def tables(results):
    return {path.name: path.read_bytes() for path in (results / "few").glob("table.*")}


@pytest.mark.slow
def test_a_grid_of_the_demos_size_gives_the_table_of_the_local_engine(cluster, small_root, tmp_path):
    finish(launch(DEMO, small_root, tmp_path / "local"))
    on_slurm = ("--engine", "slurm", "--runs_per_job", "8", "--jobs", "2", "--threads", "1")
    shown = finish(launch(DEMO, small_root, tmp_path / "slurm", *on_slurm))
    assert "16 of 16 runs complete" in shown
    assert "submitted 16 runs in 2 jobs" in shown
    assert tables(tmp_path / "slurm") == tables(tmp_path / "local")
    assert len(tables(tmp_path / "slurm")) == 3


def times_ended(results):
    """How often each run came to the end of its last task; what is done twice counts twice."""
    return [path.read_text().count("after task 3/3") for path in results.glob("few/*/log.txt")]


# -- Disturbances -----------------------------------------------------------------------------------------------------


def requeue(cluster):
    for job in cluster.jobs("%i"):
        cluster.ask("scontrol", "requeue", job)


def warn(cluster):
    for job in cluster.jobs("%i"):
        cluster.ask("scancel", "--signal=USR1", "--batch", job)


def preempt(cluster):
    wrapped = ("--wrap", "sleep 3", "--output=/dev/null")
    cluster.ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", *wrapped)


def kill_a_node(cluster):
    cluster.kill("n1")
    cluster.start_node("n1")


@pytest.fixture(scope="module")
def undisturbed(small_root, tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed")
    finish(launch(FEW, small_root, results))
    return tables(results)


@pytest.mark.slow
@pytest.mark.parametrize("disturb", [requeue, warn, preempt, kill_a_node])
def test_a_disturbed_grid_has_the_undisturbed_table(cluster, undisturbed, small_root, tmp_path, disturb):
    launcher = launch(FEW, small_root, tmp_path, "--engine", "slurm", "--runs_per_job", "1")
    cluster.wait_for(lambda: len(list(tmp_path.glob("few/*/checkpoint.pt"))) == 2)
    disturb(cluster)
    shown = finish(launcher)
    assert "2 of 2 runs complete" in shown
    assert tables(tmp_path) == undisturbed
    assert times_ended(tmp_path) == [1, 1]
    assert cluster.jobs() == []
    if disturb is not kill_a_node:
        assert any("its state is saved" in path.read_text() for path in tmp_path.glob("few/slurm/*/*.txt"))


@pytest.mark.slow
def test_a_launcher_that_is_killed_is_started_elsewhere_and_nothing_is_done_twice(
    cluster, undisturbed, small_root, tmp_path
):
    more = ("--engine", "slurm", "--runs_per_job", "1")
    launcher = launch(FEW, small_root, tmp_path / "results", *more)
    cluster.wait_for(lambda: len(list(tmp_path.glob("results/few/*/checkpoint.pt"))) >= 1)
    launcher.kill()
    launcher.communicate()
    (tmp_path / "elsewhere").mkdir()
    shown = finish(launch(FEW, small_root, tmp_path / "results", *more, cwd=tmp_path / "elsewhere"))
    assert "2 of 2 runs complete" in shown
    assert "submitted" not in shown
    assert tables(tmp_path / "results") == undisturbed
    assert times_ended(tmp_path / "results") == [1, 1]


@pytest.mark.slow
def test_submitted_without_waiting_shown_cancelled_and_taken_up(
    cluster, undisturbed, small_root, tmp_path, capsys, often
):
    words = words_of(FEW, small_root, tmp_path, "--engine", "slurm", "--jobs", "1", "--runs_per_job", "1")
    assert main([*words, "--no_wait"]) == 0
    shown = capsys.readouterr().out
    assert "submitted 2 runs in 2 jobs" in shown
    assert "2 runs go on without the launcher; the same command finds them again" in shown
    cluster.wait_for(lambda: list(tmp_path.glob("few/*/checkpoint.pt")))
    place = ["--results_dir", str(tmp_path)]
    assert main(["status", *place]) == 0
    shown = capsys.readouterr().out
    assert "RUNNING on n" in shown
    assert "PENDING (JobArrayTaskLimit)" in shown
    assert "running" in shown
    assert main(["cancel", *place]) == 0
    assert "cancelled Slurm jobs" in capsys.readouterr().out
    cluster.wait_for(lambda: not cluster.jobs())
    time.sleep(3)  # a job that queued itself again would be back by now
    assert cluster.jobs() == []
    assert list(tmp_path.glob("few/*/checkpoint.pt"))
    assert main(["cancel", *place]) == 2
    assert main(words) == 0
    assert tables(tmp_path) == undisturbed
    assert times_ended(tmp_path) == [1, 1]


@pytest.mark.slow
def test_two_jobs_at_one_record_are_kept_apart_where_locks_hold_on_each_node_alone(cluster, small_root, tmp_path):
    words = (
        "--model er --dataset seq-arrays --nl BN --n_tasks 3 --nf 8 --lr 0.02 --epochs 200 --buffer_size 20 --nowand 1"
    )
    command = f"{sys.executable} {ROOT}/utils/main.py {words} --data_root {small_root} --results_dir {tmp_path}"
    locks = f"export PYTHONPATH={ROOT}/tests/without_flock FAKE_FLOCK=-1"
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n{locks}\nexec {command} --checkpoint_every 0.1\n")
    ids = []
    for node in ("n1", "n2"):
        output = f"--output={tmp_path / node}.txt"
        ids.append(cluster.ask("sbatch", "--parsable", f"--nodelist={node}", output, str(script)).strip())
        cluster.wait_for(lambda: list(tmp_path.glob("default/*/checkpoint.pt")))
    cluster.wait_for(lambda: not any(line.startswith(ids[1]) for line in cluster.jobs()))
    assert "is being written by another process" in (tmp_path / "n2.txt").read_text()
    cluster.ask("scancel", ids[0])
    cluster.wait_for(lambda: not cluster.jobs())
    assert "its state is saved" in (tmp_path / "n1.txt").read_text()


# -- Mistakes ---------------------------------------------------------------------------------------------------------


def test_a_setup_that_fails_is_told_with_its_own_words_and_slurms(cluster, small_root, tmp_path, capsys, often):
    setup = tmp_path / "setup.sh"
    setup.write_text("no_such_module load cuda\n")
    more = ("--engine", "slurm", "--setup", str(setup), "--runs_per_job", "1", "--seeds", "2", "3")
    assert main(words_of(FEW, small_root, tmp_path, *more)) == 1
    shown = capsys.readouterr().out
    assert "FAILED (NonZeroExitCode)" in shown
    assert "before its first run started" in shown
    assert "no_such_module: command not found" in shown
    assert "runs all failed in the same way" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "slurm", "--partition", "none"], "Slurm refuses the jobs: invalid partition specified: none"),
        (["--engine", "slurm", "--setup", "none.sh"], "--setup none.sh: there is no such file"),
        (["--engine", "slurm", "--time", "soon"], "--time soon: give a limit"),
        (["--engine", "slurm", "--sbatch='"], "--sbatch"),
    ],
)
def test_bad_input_is_one_line(cluster, small_root, tmp_path, capsys, words, told):
    assert main(words_of(FEW, small_root, tmp_path, *words)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_folder_that_a_node_does_not_see_is_noticed(cluster, small_root, tmp_path, capsys, often):
    mount = f"mount -t tmpfs none {tmp_path} && exec"
    cluster.kill("n2")
    cluster.start_node("n2", "unshare", "--mount", "sh", "-c", f'{mount} "$@"', "sh")
    try:
        cluster.wait_for(lambda: "n2 idle" in cluster.ask("sinfo", "-hN", "-o", "%N %t"))
        words = words_of(FEW, small_root, tmp_path, "--engine", "slurm", "--sbatch=--nodelist=n2")
        assert main(words) == 1
        shown = capsys.readouterr().out
        assert "--results_dir must be on a file system that the nodes share with this machine" in shown
        assert "n2 (job " in shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            cluster.kill("n2")
        cluster.start_node("n2")
        cluster.wait_for(lambda: "n2 idle" in cluster.ask("sinfo", "-hN", "-o", "%N %t"))
