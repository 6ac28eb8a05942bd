import os

import pytest

from utils import slurm
from utils.errors import UserError
from utils.slurm import SlurmError


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Programs of Slurm that print a text, or fail with one."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(slurm, "_answers", {})

    def write(name, text, code=0):
        (tmp_path / f"{name}.txt").write_text(text)
        where = ">&2" if code else ""
        (tmp_path / name).write_text(f"#!/bin/sh\necho $* >> $0.asked\ncat $0.txt {where}\nexit {code}\n")
        (tmp_path / name).chmod(0o755)

    return write


JOBS = """\
7|0|8|RUNNING|None|n1|demo.1f
7|1|9|PENDING|Resources||demo.1f
7|2|7|NODE_FAIL|None|n2|demo.1f
12|N/A|12|COMPLETING|None|n1|a|b
"""


def test_the_state_the_reason_and_the_node_of_every_job(play):
    play("squeue", JOBS)
    running, waiting, lost, single = slurm.jobs_of()
    assert (running.array, running.index, running.id, running.words) == ("7", 0, "8", "RUNNING on n1")
    assert (waiting.is_waiting, waiting.is_over, waiting.words) == (True, False, "PENDING (Resources)")
    assert (lost.is_waiting, lost.is_over, lost.words) == (False, True, "NODE_FAIL on n2")
    assert (single.index, single.name, single.is_over) == (0, "a|b", False)


def test_an_answer_is_given_again_while_it_is_new_enough(play, tmp_path):
    play("squeue", JOBS)
    assert slurm.state_of("9", oldest=60.0) == "PENDING"
    assert slurm.is_running("8", os.getuid(), oldest=60.0)
    assert not slurm.is_running("5", os.getuid(), oldest=60.0)
    assert len((tmp_path / "squeue.asked").read_text().splitlines()) == 1
    slurm.jobs_of()
    assert len((tmp_path / "squeue.asked").read_text().splitlines()) == 2


def test_where_slurm_does_not_answer_a_job_may_be_running(play):
    play("squeue", "squeue: error: Unable to contact slurm controller\n", 1)
    assert slurm.is_running("8", os.getuid())
    with pytest.raises(SlurmError, match=r"^Unable to contact slurm controller$"):
        slurm.jobs_of()


def test_submitting_gives_the_job_id(play, tmp_path):
    play("sbatch", "17;cluster\n")
    assert slurm.submit(tmp_path / "job.sh") == "17"
    play("sbatch", "sbatch: error: invalid partition specified: none\nsbatch: error: Batch job submission failed\n", 1)
    with pytest.raises(SlurmError, match="invalid partition specified: none; Batch job submission failed"):
        slurm.submit(tmp_path / "job.sh")


@pytest.mark.parametrize(("text", "number"), [("a = b\nMaxArraySize            = 4\n", 4), ("", 1001)])
def test_the_largest_array(play, text, number):
    play("scontrol", text)
    assert slurm.largest_array() == number


def test_cancelling_nothing_asks_nobody(play, tmp_path):
    play("scancel", "")
    slurm.cancel([])
    assert not (tmp_path / "scancel.asked").exists()
    slurm.cancel(["7", "8"])
    assert (tmp_path / "scancel.asked").read_text() == "7 8\n"


def test_a_machine_without_slurm_is_told(monkeypatch, tmp_path, play):
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        play(name, "")
    slurm.check()
    play("scontrol", "scontrol: error: no controller\n", 1)
    with pytest.raises(UserError, match="Slurm does not answer: no controller"):
        slurm.check()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        slurm.check()
