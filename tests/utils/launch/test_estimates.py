import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.utils.report.rig import counts
from utils.config.configuration import configure, readable_name
from utils.config.registry import ROOT
from utils.launch.estimates import Estimates
from utils.launch.job import Data
from utils.machine import cpu_name
from utils.records.record import Record

DEMO = "--model er --dataset seq-digits --buffer_size 200 --lr 0.05 --nl AdaB2N --kappa 0.4 --nf 16"


def job_of(words, fingerprint="data", num_images=142):
    """What a plan knows of that run."""
    config = configure(words)
    data = Data(fingerprint, (num_images,) * 10)
    return SimpleNamespace(config=config, data=data, identity=config.identity(fingerprint))


def job(more="", **data):
    return job_of([*DEMO.split(), *more.split()], **data)


def complete(root, job, group="group", training=10.0, device_bytes=None, steps=100, other=None, **environment):
    """A complete record of that run."""
    config = job.config
    record = Record.of_run(root, group, readable_name(config), job.identity)
    record.folder.mkdir(parents=True)
    machine = {"cpu": cpu_name(), "threads": 1, "device": "cpu"} | environment
    told = {"values": config.values, "plugins": [], "data": job.data.fingerprint, "command": []}
    record.write_config(told | {"environment": machine})
    peak = {"host_bytes": 1} | ({} if device_bytes is None else {"device_bytes": device_bytes})
    timings = {"training_seconds": training, "evaluation_seconds": 1.0}
    timings |= other or {}
    record.write_result({"counts": counts([50, 50]), "timings": timings, "peak_memory": peak, "steps": steps})
    return record


def test_seconds_are_the_mean_over_the_seeds_and_groups(tmp_path):
    for seed, (group, training) in enumerate({"one": 10.0, "two": 20.0, "debug/three": 60.0}.items()):
        complete(tmp_path, job(f"--seed {seed}"), group, training)
    assert Estimates(tmp_path).seconds(job("--seed 7")) == 31.0


@pytest.mark.parametrize("more", ["--kappa 1.0", "--nf 8", "--lr 0.1", "--nl BN", "--model er_ace", "--epochs 2"])
def test_another_configuration_tells_nothing(tmp_path, more):
    complete(tmp_path, job())
    words = [word for word in DEMO.split() if "BN" not in more or word not in ("--kappa", "0.4")]
    assert Estimates(tmp_path).seconds(job_of([*words, *more.split()])) is None


@pytest.mark.parametrize("more", ["--threads 2", "--notes other", "--log_every 7", "--device cpu"])
def test_where_and_how_it_ran_makes_no_other_job(tmp_path, more):
    complete(tmp_path, job(more))
    assert Estimates(tmp_path).seconds(job()) == 11.0


def test_lists_come_back_from_the_record_as_they_were(tmp_path):
    more = "--epochs 3 --milestones 1,2 --lr_decay 0.1"
    complete(tmp_path, job(more))
    assert Estimates(tmp_path).seconds(job(more)) == 11.0


def test_equal_computations_count_as_one_job(tmp_path):
    words = "--model er_ace --dataset seq-digits --buffer_size 200 --lr 0.05 --nl AdaB2N --ada_t0"
    first, second = (job_of(f"{words} {t0}".split()) for t0 in (0, 1))
    assert first.identity == second.identity
    complete(tmp_path, first)
    assert Estimates(tmp_path).seconds(second) == 11.0


def test_times_count_only_on_the_same_kind_of_machine(tmp_path):
    complete(tmp_path, job("--seed 0"), training=9.0)
    complete(tmp_path, job("--seed 1"), training=99.0, cpu="another one")
    complete(tmp_path, job("--seed 2"), training=3.0, device="NVIDIA A100")
    complete(tmp_path, job("--seed 3"), training=5.0, threads=4)
    wanted = job()
    assert Estimates(tmp_path, {"cpu"}, threads=1).seconds(wanted) == 10.0
    assert Estimates(tmp_path, {"cpu"}).seconds(wanted) == 8.0
    assert Estimates(tmp_path, {"NVIDIA A100"}).seconds(wanted) == 4.0
    assert Estimates(tmp_path, {"NVIDIA H100"}).seconds(wanted) is None


def test_memory_is_the_largest_of_any_gpu_in_megabytes(tmp_path):
    complete(tmp_path, job("--seed 0"))
    assert Estimates(tmp_path).memory_mb(job()) is None
    complete(tmp_path, job("--seed 1"), device_bytes=3 * 2**20, device="NVIDIA A100")
    complete(tmp_path, job("--seed 2"), device_bytes=5 * 2**19, cpu="another one")
    assert Estimates(tmp_path).memory_mb(job()) == 3.0


def test_a_record_is_read_once(tmp_path, monkeypatch):
    complete(tmp_path, job())
    read, reads = Record.read_result, []
    monkeypatch.setattr(Record, "read_result", lambda record: reads.append(record.folder) or read(record))
    estimates = Estimates(tmp_path)
    for seed in range(5):
        assert estimates.seconds(job(f"--seed {seed}")) == 11.0
        assert estimates.memory_mb(job(f"--kappa 0.{seed}")) is None
    assert len(reads) == 1


def test_without_a_results_folder_nothing_is_known(tmp_path):
    assert Estimates(tmp_path / "none").seconds(job()) is None


def _wrong(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _folder_in_place(path):
    path.unlink()
    path.mkdir()


def _replace_all(path, value):
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), value) | {"schema": 1}))


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "deep": lambda path: path.write_text("[" * 100_000),
    "list": lambda path: path.write_text("[1, 2]"),
    "schema": lambda path: _wrong(path, schema=99),
    "texts": lambda path: _replace_all(path, "text"),
    "lists": lambda path: _replace_all(path, [[]]),
    "numbers": lambda path: _replace_all(path, 1.5),
    "folder": _folder_in_place,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_damaged_record_is_left_out(tmp_path, name, damage):
    record = complete(tmp_path, job("--seed 0"), training=50.0)
    complete(tmp_path, job("--seed 1"))
    DAMAGE[damage](record.folder / name)
    assert Estimates(tmp_path).seconds(job()) == 11.0
    assert Estimates(tmp_path).memory_mb(job()) is None


@pytest.mark.parametrize("value", [-1, "7", None, True, float("nan"), 1e999, [1]])
def test_an_amount_that_is_none_is_damage(tmp_path, value):
    record = complete(tmp_path, job("--seed 0"), device_bytes=2**20)
    _wrong(record.result_path, timings={"training_seconds": value})
    assert Estimates(tmp_path).seconds(job()) is None
    assert Estimates(tmp_path).memory_mb(job()) is None


@pytest.mark.parametrize("values", [{"lambd": [1]}, {"lambd": {"a": 1}}, {"model": 3}, {"kappa": None}])
def test_values_of_another_kind_are_another_job(tmp_path, values):
    record = complete(tmp_path, job())
    config = json.loads(record.config_path.read_text())
    _wrong(record.config_path, values=config["values"] | values)
    assert Estimates(tmp_path).seconds(job()) is None


def test_a_folder_that_may_not_be_entered_is_left_out(tmp_path, monkeypatch):
    closed = complete(tmp_path, job("--seed 0"), "closed").folder.parent
    complete(tmp_path, job("--seed 1"), "open", training=20.0)
    listed = os.scandir

    def refuse(path):
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert Estimates(tmp_path).seconds(job()) == 21.0


def test_a_run_on_other_data_tells_nothing(tmp_path):
    complete(tmp_path, job(fingerprint="fewer images"), device_bytes=2**20)
    assert Estimates(tmp_path).seconds(job()) is None
    assert Estimates(tmp_path).memory_mb(job()) is None


@pytest.mark.parametrize(("other", "once"), [("start_seconds", 5.0), ("norms_seconds", 0.0)])
def test_start_and_measured_norm_layers_are_part_of_a_run_and_not_of_its_speed(tmp_path, other, once):
    complete(tmp_path, job(), training=9.0, other={other: 5.0}, steps=100)
    assert Estimates(tmp_path).seconds(job("--seed 7")) == 15.0
    assert Estimates(tmp_path).rough_seconds(job(num_images=100)) == pytest.approx(100 * 0.1 + once)
    assert Estimates(tmp_path).rough_seconds(job("--epochs 3", num_images=100)) == pytest.approx(300 * 0.1 + once)


def test_steps_of_retuning_take_time_too(tmp_path):
    complete(tmp_path, job(), training=9.0, steps=100)
    # 200 images a task: 20 batches of training, and 20, 40, … 100 of re-tuning
    assert Estimates(tmp_path).rough_seconds(job("--retune_norms 2", num_images=100)) == pytest.approx(700 * 0.1)


def test_the_speed_of_other_runs_is_a_rough_guess(tmp_path):
    complete(tmp_path, job("--model er_ace", fingerprint="other"), training=49.0, steps=100)
    wanted = job("--epochs 3", num_images=100)  # of 20 batches per task
    assert Estimates(tmp_path).seconds(wanted) is None
    assert Estimates(tmp_path).rough_seconds(wanted) == pytest.approx(3 * 5 * 20 * 0.5)


def test_runs_of_the_same_method_are_the_better_guess(tmp_path):
    complete(tmp_path, job("--model er_ace"), training=999.0)
    complete(tmp_path, job("--kappa 1.0"), training=9.0, steps=100)
    complete(tmp_path, job("--kappa 0.7"), training=19.0, steps=100)
    assert Estimates(tmp_path).rough_seconds(job(num_images=100)) == pytest.approx(100 * 0.15)


@pytest.mark.parametrize(
    "more",
    ["--nl TBBN", "--nf 8", "--backbone resnet32", "--batch_size 20", "--precision bf16", "--dataset seq-cifar10"],
)
def test_runs_in_another_network_or_on_other_images_are_no_guess(tmp_path, more):
    words = [word for word in DEMO.split() if word not in ("--kappa", "0.4")]
    words = [word for word in words if "resnet32" not in more or word not in ("--nf", "16")]
    complete(tmp_path, job_of([*words, *more.split()]))
    assert Estimates(tmp_path).rough_seconds(job()) is None


def test_a_guess_counts_only_on_the_same_kind_of_machine(tmp_path):
    complete(tmp_path, job("--seed 1 --kappa 1.0"), cpu="another one")
    assert Estimates(tmp_path).rough_seconds(job()) is None


@pytest.mark.parametrize("steps", [0, -1, None, "many", [1]])
def test_a_record_without_steps_is_no_guess(tmp_path, steps):
    complete(tmp_path, job("--kappa 1.0"), steps=steps)
    assert Estimates(tmp_path).rough_seconds(job()) is None


def test_needs_no_torch():
    script = "import sys, utils.launch.estimates\nassert not {'torch', 'numpy', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
