import json
import os

import numpy as np
import pytest

from datasets._digests import kept_digest
from tests.datasets.small import small_arrays, small_dataset, write_four_arrays


@pytest.fixture
def files(tmp_path):
    for name in ("a.npy", "b.npy"):
        (tmp_path / name).write_bytes(b"content")
    return [tmp_path / "a.npy", tmp_path / "b.npy"]


class Counting:
    """Digests that tell how often they were computed."""

    def __init__(self):
        self.number = 0

    def __call__(self):
        self.number += 1
        return f"digest {self.number}"


def test_files_are_read_once(files):
    compute = Counting()
    assert {kept_digest(given, compute) for given in (files, files[::-1], [*files, *files])} == {"digest 1"}
    assert sorted(file.name for file in files[0].parent.iterdir()) == ["a.npy", "b.npy", "digest.json"]


def test_moved_folder_keeps_its_digest(files, tmp_path):
    compute = Counting()
    kept_digest(files, compute)
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert kept_digest([moved / file.name for file in files], compute) == "digest 1"


def touch(files):
    state = files[1].stat()
    os.utime(files[1], ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def grow(files):
    state = files[1].stat()
    files[1].write_bytes(b"longer content")
    os.utime(files[1], ns=(state.st_atime_ns, state.st_mtime_ns))


def write_kept(text):
    return lambda files: files[0].with_name("digest.json").write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        touch,
        grow,
        write_kept(""),
        write_kept("[]"),
        write_kept(json.dumps({"files": {}, "digest": "false"})),
        lambda files: files[0].with_name("digest.json").unlink(),
    ],
)
def test_any_change_makes_it_read_again(files, change):
    compute = Counting()
    kept_digest(files, compute)
    change(files)
    assert kept_digest(files, compute) == "digest 2"
    assert kept_digest(files, compute) == "digest 2"


def test_digest_of_other_files_is_not_taken(files):
    compute = Counting()
    kept_digest(files, compute)
    assert kept_digest(files[:1], compute) == "digest 2"


def test_place_that_cannot_be_written_is_no_mistake(files):
    compute = Counting()
    files[0].with_name(f"digest.json.{os.getpid()}").mkdir()
    assert [kept_digest(files, compute) for _ in range(2)] == ["digest 1", "digest 2"]


def test_without_files_nothing_is_kept():
    assert kept_digest([], Counting()) == "digest 1"


def test_fingerprint_of_a_set_on_disk_is_that_of_its_images_and_is_kept(tmp_path):
    content = {name: getattr(small_arrays(), name) for name in ("train_x", "train_y", "test_x", "test_y")}
    folder = write_four_arrays(tmp_path / "small", content)
    resident, stored = small_dataset(), small_dataset()
    stored.on_disk = True
    expected = resident.load(tmp_path).fingerprint()
    assert not (folder / "digest.json").exists()
    assert stored.load(tmp_path).fingerprint() == expected
    assert json.loads((folder / "digest.json").read_text())["digest"] == expected
    np.save(folder / "train_x.npy", content["train_x"][::-1])
    assert stored.load(tmp_path).fingerprint() == resident.load(tmp_path).fingerprint() != expected
