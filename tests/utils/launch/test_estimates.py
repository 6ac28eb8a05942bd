import json
import os
import subprocess
import sys

import pytest

from utils.configuration import configure, readable_name
from utils.launch.estimates import Estimates
from utils.machine import cpu_name
from utils.record import Record
from utils.registry import ROOT

DEMO = "--model er --dataset seq-digits --buffer_size 200 --lr 0.05 --nl AdaB2N --kappa 0.4 --nf 16"


def configuration(more=""):
    return configure([*DEMO.split(), *more.split()])


def complete(root, config, group="group", training=10.0, device_bytes=None, **environment):
    """A complete record of that configuration."""
    record = Record.of_run(root, group, readable_name(config), config.identity("data"))
    record.folder.mkdir(parents=True)
    machine = {"cpu": cpu_name(), "threads": 1, "device": "cpu"} | environment
    record.write_config({"values": config.values, "plugins": [], "command": [], "environment": machine})
    peak = {"host_bytes": 1} | ({} if device_bytes is None else {"device_bytes": device_bytes})
    record.write_result({"timings": {"training_seconds": training, "evaluation_seconds": 1.0}, "peak_memory": peak})
    return record


def test_seconds_are_the_mean_over_the_seeds_and_groups(tmp_path):
    for seed, (group, training) in enumerate({"one": 10.0, "two": 20.0, "debug/three": 60.0}.items()):
        complete(tmp_path, configuration(f"--seed {seed}"), group, training)
    assert Estimates(tmp_path).seconds(configuration("--seed 7")) == 31.0


@pytest.mark.parametrize("more", ["--kappa 1.0", "--nf 8", "--lr 0.1", "--nl BN", "--model er_ace", "--epochs 2"])
def test_another_configuration_tells_nothing(tmp_path, more):
    complete(tmp_path, configuration())
    words = [word for word in DEMO.split() if "BN" not in more or word not in ("--kappa", "0.4")]
    assert Estimates(tmp_path).seconds(configure([*words, *more.split()])) is None


@pytest.mark.parametrize("more", ["--threads 2", "--notes other", "--log_every 7", "--device cpu"])
def test_where_and_how_it_ran_makes_no_other_configuration(tmp_path, more):
    complete(tmp_path, configuration(more))
    assert Estimates(tmp_path).seconds(configuration()) == 11.0


def test_lists_come_back_from_the_record_as_they_were(tmp_path):
    more = "--epochs 3 --milestones 1,2 --lr_decay 0.1"
    complete(tmp_path, configuration(more))
    assert Estimates(tmp_path).seconds(configuration(more)) == 11.0


def test_equal_computations_count_as_one_configuration(tmp_path):
    words = "--model er_ace --dataset seq-digits --buffer_size 200 --lr 0.05 --nl AdaB2N --ada_t0"
    first, second = (configure(f"{words} {t0}".split()) for t0 in (0, 1))
    assert first.identity("data") == second.identity("data")
    complete(tmp_path, first)
    assert Estimates(tmp_path).seconds(second) == 11.0


def test_times_count_only_on_the_same_kind_of_machine(tmp_path):
    complete(tmp_path, configuration("--seed 0"), training=9.0)
    complete(tmp_path, configuration("--seed 1"), training=99.0, cpu="another one")
    complete(tmp_path, configuration("--seed 2"), training=3.0, device="NVIDIA A100")
    complete(tmp_path, configuration("--seed 3"), training=5.0, threads=4)
    config = configuration()
    assert Estimates(tmp_path, {"cpu"}, threads=1).seconds(config) == 10.0
    assert Estimates(tmp_path, {"cpu"}).seconds(config) == 8.0
    assert Estimates(tmp_path, {"NVIDIA A100"}).seconds(config) == 4.0
    assert Estimates(tmp_path, {"NVIDIA H100"}).seconds(config) is None


def test_memory_is_the_largest_of_any_gpu_in_megabytes(tmp_path):
    complete(tmp_path, configuration("--seed 0"))
    assert Estimates(tmp_path).memory_mb(configuration()) is None
    complete(tmp_path, configuration("--seed 1"), device_bytes=3 * 2**20, device="NVIDIA A100")
    complete(tmp_path, configuration("--seed 2"), device_bytes=5 * 2**19, cpu="another one")
    assert Estimates(tmp_path).memory_mb(configuration()) == 3.0


def test_a_record_is_read_once(tmp_path, monkeypatch):
    complete(tmp_path, configuration())
    read, reads = Record.read_result, []
    monkeypatch.setattr(Record, "read_result", lambda record: reads.append(record.folder) or read(record))
    estimates = Estimates(tmp_path)
    for seed in range(5):
        assert estimates.seconds(configuration(f"--seed {seed}")) == 11.0
        assert estimates.memory_mb(configuration(f"--kappa 0.{seed}")) is None
    assert len(reads) == 1


def test_without_a_results_folder_nothing_is_known(tmp_path):
    assert Estimates(tmp_path / "none").seconds(configuration()) is None


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
    record = complete(tmp_path, configuration("--seed 0"), training=50.0)
    complete(tmp_path, configuration("--seed 1"))
    DAMAGE[damage](record.folder / name)
    assert Estimates(tmp_path).seconds(configuration()) == 11.0
    assert Estimates(tmp_path).memory_mb(configuration()) is None


@pytest.mark.parametrize("value", [-1, "7", None, True, float("nan"), 1e999, [1]])
def test_an_amount_that_is_none_is_damage(tmp_path, value):
    record = complete(tmp_path, configuration("--seed 0"), device_bytes=2**20)
    _wrong(record.result_path, timings={"training_seconds": value})
    assert Estimates(tmp_path).seconds(configuration()) is None
    assert Estimates(tmp_path).memory_mb(configuration()) is None


@pytest.mark.parametrize("values", [{"lambd": [1]}, {"lambd": {"a": 1}}, {"model": 3}, {"kappa": None}])
def test_values_of_another_kind_are_another_configuration(tmp_path, values):
    record = complete(tmp_path, configuration())
    config = json.loads(record.config_path.read_text())
    _wrong(record.config_path, values=config["values"] | values)
    assert Estimates(tmp_path).seconds(configuration()) is None


def test_a_folder_that_may_not_be_entered_is_left_out(tmp_path, monkeypatch):
    closed = complete(tmp_path, configuration("--seed 0"), "closed").folder.parent
    complete(tmp_path, configuration("--seed 1"), "open", training=20.0)
    listed = os.scandir

    def refuse(path):
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert Estimates(tmp_path).seconds(configuration()) == 21.0


def test_needs_no_torch():
    script = "import sys, utils.launch.estimates\nassert not {'torch', 'numpy', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
