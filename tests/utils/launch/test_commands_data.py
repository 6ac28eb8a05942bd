"""The command `data`."""

import pytest

from utils.config.registry import DATASETS
from utils.launch.cli import main


def test_what_is_there_and_what_can_be_fetched_is_listed(tmp_path, capsys):
    assert main(["data", "--data_root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == DATASETS.names()
    assert lines[-1] == "with an official source (--download): cifar10 cifar100 dissimilar"


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
