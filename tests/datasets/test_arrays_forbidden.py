"""Data that this account may not read are the user's to mend: one line that names the file."""

import builtins
import errno
import os

import pytest
from PIL import Image

from datasets.layouts.imagenet import ImageNetFolder
from datasets.layouts.official import OfficialCifar
from tests.datasets.small import (
    TEN_FILES,
    small_content,
    small_dataset,
    write_four_arrays,
    write_image_folder,
    write_ten_format,
)
from utils.errors import UserError


@pytest.fixture
def forbid(monkeypatch):
    """Lets the opening of a file fail as it does for an account without the permission, for root too."""

    def forbid_file(file):
        original = builtins.open

        def guarded(path, *arguments, **more):
            if not isinstance(path, int) and os.fspath(path) == str(file):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return original(path, *arguments, **more)

        monkeypatch.setattr(builtins, "open", guarded)

    return forbid_file


def written_arrays(data_root):
    return small_dataset(), write_four_arrays(data_root / "small", small_content()) / "test_x.npy"


def written_official(data_root):
    place = data_root / "small" / "cifar-10-batches-py"
    reader = write_ten_format(place, small_content())
    return small_dataset(OfficialCifar(place.name, TEN_FILES, reader)), place / "data_batch_3"


def written_folder(data_root):
    place = write_image_folder(data_root / "small", small_content())
    return small_dataset(), sorted((place / "test" / "x").iterdir())[0]


def written_imagenet(data_root):
    dataset = small_dataset()
    dataset.layouts = (ImageNetFolder(),)
    for split in ("train", "val"):
        for name in dataset.class_names:
            folder = data_root / "small" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 33)).save(folder / "0.JPEG")
    return dataset, data_root / "small" / "val" / "c" / "0.JPEG"


@pytest.mark.parametrize("write", [written_arrays, written_official, written_folder, written_imagenet])
def test_file_that_may_not_be_read_is_named(write, tmp_path, forbid):
    dataset, file = write(tmp_path)
    forbid(file)
    with pytest.raises(UserError) as caught:
        dataset.load(tmp_path)
    assert str(caught.value) == (
        f"{file}: Permission denied; make it readable for this account, or give another --data_root"
    )
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("write", [written_official, written_folder, written_imagenet])
def test_folder_that_may_not_be_read_is_named(write, tmp_path):
    dataset, file = write(tmp_path)
    file.parent.chmod(0)
    try:
        assert f"{file.parent}" in dataset.describe(tmp_path)
        with pytest.raises(UserError, match="make it readable"):
            dataset.load(tmp_path)
    finally:
        file.parent.chmod(0o755)
