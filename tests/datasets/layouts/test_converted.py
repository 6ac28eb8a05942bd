"""Data that is decoded once: every later run maps the arrays, until a file changes."""

import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from datasets.layouts import converted
from datasets.layouts.image_folder import ImageFolder
from tests.datasets.small import small_content, small_dataset, write_four_arrays, write_image_folder
from utils.config.registry import ROOT

NAMES = ("train_x", "train_y", "test_x", "test_y")


@pytest.fixture
def root(tmp_path):
    write_image_folder(tmp_path / "data" / "small", small_content())
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """How often images were decoded."""
    read, calls = ImageFolder.read, []

    def counted(*arguments):
        calls.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(ImageFolder, "read", counted)
    return calls


def converted_folders(folder):
    return [path for path in folder.glob("**/seq-small-*") if path.is_dir()]


def assert_same(arrays, others):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(arrays, name), getattr(others, name))
    assert (arrays.origin, arrays.conversions) == (others.origin, others.conversions)


def test_images_are_decoded_once_and_mapped_from_then_on(root, reads, capsys):
    first = small_dataset().load(root)
    assert "seq-small: converting 52 images once into" in capsys.readouterr().err
    second = small_dataset().load(root)
    assert capsys.readouterr().err == ""
    assert len(reads) == 1
    assert isinstance(first.train_x, np.memmap)
    assert_same(second, first)
    assert first.origin["train_x"] == str(root / "small" / "train")
    assert_same(second, small_dataset().assemble(ImageFolder().read(root / "small", small_dataset())))


def test_a_changed_file_is_noticed_and_the_former_arrays_are_removed(root, reads):
    small_dataset().load(root)
    (former,) = converted_folders(root)
    file = sorted((root / "small" / "train" / "w").iterdir())[0]
    file.write_bytes(sorted((root / "small" / "train" / "x").iterdir())[0].read_bytes())
    os.utime(file, (1, 1))
    changed = small_dataset().load(root)
    assert len(reads) == 2
    (folder,) = converted_folders(root)
    assert folder != former
    assert_same(changed, small_dataset().load(root))
    file.unlink()
    assert len(small_dataset().load(root).train_x) == 39


def test_what_was_converted_is_said_again(root):
    write_image_folder(root / "small", small_content())
    file = sorted((root / "small" / "train" / "w").iterdir())[0]
    from PIL import Image

    with Image.open(file) as image:
        grey = image.convert("L")
    grey.save(file)
    notes = [small_dataset().load(root).conversions for _ in range(2)]
    assert notes == [("grey images converted to RGB: 1",)] * 2


def test_a_folder_that_cannot_be_written_to_has_its_arrays_in_the_cache(root, reads, cache):
    (root / "small" / "converted").write_text("in the way")
    for _ in range(2):
        assert isinstance(small_dataset().load(root).train_x, np.memmap)
    assert len(reads) == 1
    assert len(converted_folders(cache)) == 1
    assert not converted_folders(root)


def test_an_account_without_a_home_has_no_cache(root, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", homeless)
    (root / "small" / "converted").write_text("in the way")
    assert "no room" in small_dataset().load(root).conversions[0]


def test_without_room_anywhere_the_images_are_in_memory_and_a_note_says_so(root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(converted.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    arrays = small_dataset().load(root)
    assert not isinstance(arrays.train_x, np.memmap)
    assert "no room to convert seq-small" in arrays.conversions[0]
    assert not converted_folders(root)


def test_a_disk_that_fills_meanwhile_leaves_nothing(root, cache, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted.np, "save", full)
    assert "no room" in small_dataset().load(root).conversions[0]
    assert not converted_folders(root)
    assert not converted_folders(cache)


def test_a_conversion_that_was_killed_is_made_again(root, reads):
    small_dataset().load(root)
    (folder,) = converted_folders(root)
    folder.rename(f"{folder}.part")
    (folder.parent / f"{folder.name}.part" / "train_x.npy").write_bytes(b"half")
    small_dataset().load(root)
    assert len(reads) == 2
    assert converted_folders(root) == [folder]


def test_two_processes_at_once_convert_once(root):
    script = (
        "import sys; from pathlib import Path; from tests.datasets.small import small_dataset\n"
        "sys.stdin.readline(); print(small_dataset().load(Path(sys.argv[1])).fingerprint())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(root)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60) for child in children]
    assert sum(errors.count("converting") for _, errors in outputs) == 1
    assert len({found for found, _ in outputs}) == 1
    assert len(converted_folders(root)) == 1


def test_four_arrays_are_not_converted(tmp_path):
    write_four_arrays(tmp_path / "small", small_content())
    assert isinstance(small_dataset().load(tmp_path).train_x, np.memmap)
    assert not (tmp_path / "small" / "converted").exists()
