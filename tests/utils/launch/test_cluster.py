import pytest

from utils.launch.arguments import launch_parser
from utils.launch.cli import main
from utils.launch.cluster import make_cluster, seconds_of
from utils.launch.submission import Submission, SubmittedRun


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("1:00:00", 3600),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("0-0:0:7", 7),
        ("soon", None),
        ("1:2:3:4", None),
        ("", None),
    ],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(text, seconds):
    assert seconds_of(text) == seconds


def script_of(tmp_path, *words, num_runs=5, after=()):
    options, _ = launch_parser().parse_known_args(["--engine", "slurm", *words])
    cluster = make_cluster(options, 2, tmp_path / "logs")
    runs = [SubmittedRun(f"run{number}", (), "") for number in range(num_runs)]
    submission = Submission.make(tmp_path / "100% sure", {"runs_per_job": cluster.runs_per_job}, runs)
    return cluster.script(submission, after).splitlines(), submission


def test_the_script_of_a_submission(tmp_path):
    lines, submission = script_of(tmp_path)
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-1" in lines
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --cpus-per-task=2" in lines
    assert "#SBATCH --signal=B:USR1@120" in lines
    (output,) = [line for line in lines if "--output" in line]
    assert "100%% sure" in output
    assert output.endswith("/%a.txt'")
    assert lines[-1].startswith("exec ")
    assert lines[-1].endswith(f"run.py slurm-job '{submission.folder}'")


def test_options_of_slurm_are_in_the_script_those_typed_last(tmp_path):
    setup = tmp_path / "set up.sh"
    setup.write_text("")
    gpus = ("--partition", "gpu", "--gres", "gpu:1", "--time", "4", "--runs_per_job", "3", "--jobs", "2")
    lines, _ = script_of(tmp_path, *gpus, "--sbatch=--mem=32G --cpus-per-task=9", "--setup", str(setup), after=("7",))
    wanted = ["--array=0-1%2", "--cpus-per-task=6", "--dependency=afterany:7", "--partition=gpu", "--gres=gpu:1"]
    given = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert [each for each in wanted if each not in given] == []
    assert given[-3:] == ["--time=4", "--mem=32G", "--cpus-per-task=9"]
    assert "--signal=B:USR1@60" in given
    assert lines[-2] == f"source '{setup}' || exit"


@pytest.mark.parametrize(
    "words", [["--partition", "gpu"], ["--no_wait"], ["--runs_per_job", "2"], ["--sbatch=--mem=1"], ["--setup", "a"]]
)
def test_options_of_slurm_are_refused_on_this_machine(words, capsys):
    assert main(["--preset", "demo", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{words[0].partition('=')[0]} is an option of Slurm: give --engine slurm too, or leave it out" in line


def test_without_slurm_it_is_told_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--preset", "demo", "--engine", "slurm", "-y", "--results_dir", str(tmp_path / "results")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no sbatch on this machine" in line
    assert not (tmp_path / "results").exists()
