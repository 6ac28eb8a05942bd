import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from datasets.layouts.official import OfficialCifar
from tests.datasets.small import (
    HUNDRED_FILES,
    TEN_FILES,
    small_content,
    small_dataset,
    write_hundred_format,
    write_ten_format,
)
from utils.config.registry import ROOT
from utils.errors import UserError

FORMATS = {
    "ten": ("cifar-10-batches-py", TEN_FILES, write_ten_format),
    "hundred": ("cifar-100-python", HUNDRED_FILES, write_hundred_format),
}


@pytest.fixture(params=FORMATS)
def stored(request, tmp_path):
    """The folder of the files, and a dataset that looks for them."""
    base_folder, files, write = FORMATS[request.param]
    place = tmp_path / "small" / base_folder
    reader = write(place, small_content())
    return place, small_dataset(OfficialCifar(base_folder, files, reader))


def test_official_files_are_read(stored, tmp_path):
    place, dataset = stored
    arrays = dataset.load(tmp_path)
    for name, array in small_content().items():
        np.testing.assert_array_equal(getattr(arrays, name), array)
    assert str(place) in dataset.describe(tmp_path)


def test_official_files_may_lie_in_the_data_root_itself(stored, tmp_path):
    place, dataset = stored
    moved = place.rename(tmp_path / place.name)
    assert dataset.load(tmp_path).origin["train_x"] == str(moved)


class Canary:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


def test_nothing_is_unpickled_before_its_checksum_passed(stored, tmp_path):
    place, dataset = stored
    for file in sorted(place.iterdir()):
        original = file.read_bytes()
        file.write_bytes(pickle.dumps(Canary(str(tmp_path / "executed"))))
        with pytest.raises(UserError) as caught:
            dataset.load(tmp_path)
        assert str(file) in str(caught.value)
        assert "checksum" in str(caught.value)
        assert not (tmp_path / "executed").exists()
        file.write_bytes(original)
    assert dataset.load(tmp_path)


def test_truncated_file_is_named(stored, tmp_path):
    place, dataset = stored
    file = sorted(place.iterdir())[-1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file.name} is not the official file"):
        dataset.load(tmp_path)


def test_missing_files_are_named(stored, tmp_path):
    place, dataset = stored
    gone = sorted(place.iterdir())[0]
    gone.unlink()
    with pytest.raises(UserError, match=f"lacks {gone.name};"):
        dataset.load(tmp_path)
    assert f"lacks {gone.name}" in dataset.describe(tmp_path)


@pytest.mark.parametrize("name", ["seq-cifar10", "seq-cifar100"])
def test_the_suites_own_datasets_know_torchvisions_files(name):
    from torchvision import datasets as official

    from utils.config.registry import DATASETS

    (layout,) = (each for each in DATASETS.get(name).layouts if isinstance(each, OfficialCifar))
    reader = getattr(official, layout.reader)
    known = [*(file for file, _ in (*reader.train_list, *reader.test_list)), reader.meta["filename"]]
    assert layout.base_folder == reader.base_folder
    assert sorted(layout.files) == sorted(known)


def test_the_suites_own_datasets_refuse_other_files(tmp_path):
    from utils.config.registry import DATASETS

    write_ten_format(tmp_path / "cifar10" / "cifar-10-batches-py", small_content())
    with pytest.raises(UserError, match="data_batch_1 is not the official file"):
        DATASETS.get("seq-cifar10")().load(tmp_path)


def test_readers_import_no_torch_before_official_files_are_read(tmp_path):
    program = (
        "import sys; from pathlib import Path; from utils.config.registry import DATASETS\n"
        "for name in DATASETS.names():\n"
        "    DATASETS.get(name)().describe(Path(sys.argv[1]))\n"
        "DATASETS.get('seq-digits')().load(Path(sys.argv[1])).fingerprint()\n"
        "print('torch' in sys.modules, 'PIL' in sys.modules)"
    )
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"], result.stderr
