"""SIGKILL to runs of several stages, in each of the stages and while a checkpoint is being written."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests.killed_rig import PATIENCE, command, metrics_of, result_of, wait_for

SETTING = (
    "--dataset seq-digits --backbone resnet18 --nf 4 --epochs 2 --second_epochs 2 --batch_size 32 --buffer_size 60 "
    "--best_epoch val_loss --val_fraction 0.1 --log_every 2"
)
RUNS = {
    "eeil": "--model eeil --nl TBBN --eeil_distill kl --eeil_skip_newest_head 0",  # two teachers
    "podnet": "--model podnet --nl AdaB2N --eval_every 5",
    "afc": "--model afc --nl BN",  # a third stage, beside the exemplars of the first
}


def moments_of(lines, draws):
    """How many lines there are, rising, at one of every kind and learning rate, which tells the stage.

    Those of tasks 2 to 4, so that there are exemplars and a teacher, and the run is not over soon.

    Args:
        lines: of the undisturbed run.
        draws: random numbers.
    """
    kinds = {}
    for number, text in enumerate(lines):
        line = json.loads(text)
        if 1 <= line["task"] <= 3:
            after = line["kind"] == "validation"  # when there is a best epoch to be kept
            kinds.setdefault((line["kind"], line.get("lr")), []).append(number + after)
    return sorted(draws.choice(numbers) for numbers in kinds.values())


def kill_while_it_writes(process, results):
    """End it in the midst of a checkpoint: stopped, it cannot finish the file that is seen."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if list(results.rglob(".checkpoint.pt.*.part")):
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            if list(results.rglob(f".checkpoint.pt.{process.pid}.part")):
                break
            os.kill(process.pid, signal.SIGCONT)
    process.kill()


def run_until(line, words, results, draws, *, writing):
    """Start the run, or go on with it, and end it once it has so many lines and one more than before."""
    begun = metrics_of(results).count("\n")
    process = subprocess.Popen(
        command(words, results, "--checkpoint_every", "0" if writing else "0.3"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: metrics_of(results).count("\n") > max(line - 1, begun) or process.poll() is not None)
    if writing:
        kill_while_it_writes(process, results)
    else:
        time.sleep(draws.uniform(0, 0.1))
        process.kill()
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, error
    return bool(list(results.rglob(f".checkpoint.pt.{process.pid}.part")))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="waits for a process to stop")
@pytest.mark.parametrize("method", RUNS)
def test_killed_in_every_stage_it_ends_the_same(tmp_path, method):
    words, draws = f"{SETTING} {RUNS[method]}", random.Random(0)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    subprocess.run(command(words, undisturbed), check=True, capture_output=True)
    moments = moments_of(metrics_of(undisturbed).splitlines(), draws)
    assert len(moments) >= 4
    for number, line in enumerate(moments):
        writing = number % 2 == 0
        assert run_until(line, words, disturbed, draws, writing=writing) or not writing
    finished = subprocess.run(command(words, disturbed), check=True, capture_output=True, text=True)
    assert "resuming" in finished.stdout
    assert result_of(disturbed) == result_of(undisturbed)
    assert metrics_of(disturbed) == metrics_of(undisturbed)
    assert not list(disturbed.rglob("*.part"))
