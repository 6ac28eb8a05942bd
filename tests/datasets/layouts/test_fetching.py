import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import torchvision.datasets as official

from datasets.layouts.fetching import Published, fetch, published_by
from datasets.layouts.official import OfficialCifar
from tests.datasets.loopback import serving
from tests.datasets.small import TEN_FILES, small_content, small_dataset, write_ten_format
from utils.config.registry import ROOT
from utils.errors import UserError

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def served():
    with serving() as served:
        served.files = {"/x.bin": CONTENT}
        yield served


def md5(content):
    return hashlib.md5(content).hexdigest()


def published(*urls, name="x.bin", content=CONTENT, members=()):
    return Published(urls, name, md5(content), members)


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"base/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(served, tmp_path, capsys):
    for _ in range(2):
        fetch([published(f"{served.url}/x.bin", name="raw/x.bin")], tmp_path)
    assert (tmp_path / "raw" / "x.bin").read_bytes() == CONTENT
    assert served.asked == [("/x.bin", 0)]
    assert left_in(tmp_path) == [".download.lock", "raw/x.bin"]
    assert capsys.readouterr().err == f"downloading {served.url}/x.bin (1.0 MB)\n"


def test_of_an_archive_what_is_wanted_is_unpacked(served, tmp_path):
    served.files["/x.tar.gz"] = packed = archive(a=b"first", b=b"second", c=b"not wanted")
    members = (("base/a", md5(b"first")), ("base/b", md5(b"second")))
    file = published(f"{served.url}/x.tar.gz", name="x.tar.gz", content=packed, members=members)
    fetch([file], tmp_path)
    assert left_in(tmp_path) == [".download.lock", "base/a", "base/b"]
    (tmp_path / "base" / "a").write_bytes(b"fir")
    fetch([file], tmp_path)
    assert (tmp_path / "base" / "a").read_bytes() == b"first"
    assert len(served.asked) == 2


def test_an_archive_put_there_by_hand_is_taken(tmp_path):
    packed = archive(a=b"first")
    (tmp_path / "x.tar.gz").write_bytes(packed)
    members = (("base/a", md5(b"first")),)
    fetch([published("http://127.0.0.1:1/x", name="x.tar.gz", content=packed, members=members)], tmp_path)
    assert left_in(tmp_path) == [".download.lock", "base/a", "x.tar.gz"]


def test_what_broke_off_goes_on_where_it_was(served, tmp_path):
    served.limit = 300_000
    with pytest.raises(UserError, match=r"^127\.0\.0\.1 broke off \(the connection ended early\)\. .* again"):
        fetch([published(f"{served.url}/x.bin")], tmp_path)
    assert not (tmp_path / "x.bin").exists()
    served.limit = None
    fetch([published(f"{served.url}/x.bin")], tmp_path)
    assert served.asked == [("/x.bin", 0), ("/x.bin", 300_000)]
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_part_of_another_file_is_fetched_anew(served, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "x.bin").write_bytes(bytes(len(CONTENT)))
    fetch([published(f"{served.url}/x.bin")], tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_file_with_a_wrong_checksum_is_never_kept(served, tmp_path):
    served.files["/x.bin"] = CONTENT[:-1]
    with pytest.raises(UserError, match="sent a file other than the official one: its checksum is wrong"):
        fetch([published(f"{served.url}/x.bin")], tmp_path)
    assert left_in(tmp_path) == [".download.lock"]


def test_the_next_address_is_tried(served, tmp_path):
    fetch([published(f"{served.url}/gone", f"{served.url}/x.bin")], tmp_path)
    assert (tmp_path / "x.bin").exists()


def test_without_network_one_line_names_host_reason_and_place(served, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch([published("http://127.0.0.1:1/x.bin", f"{served.url}/gone")], tmp_path / "data")
    assert str(caught.value) == (
        "127.0.0.1 cannot be reached (Connection refused); 127.0.0.1 returned 404 Not Found. Run the same command "
        f"again later; or download http://127.0.0.1:1/x.bin to {tmp_path / 'data'} by hand, then run it again"
    )


def test_two_processes_fetch_once(served, tmp_path):
    threads = [threading.Thread(target=fetch, args=([published(f"{served.url}/x.bin")], tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served.asked == [("/x.bin", 0)]


def test_a_full_disk_is_no_matter_of_the_network(served, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets.layouts.fetching._receive", full)
    with pytest.raises(OSError, match="No space left"):
        fetch([published(f"{served.url}/x.bin")], tmp_path)


def test_torchvision_names_the_published_files():
    (cifar,) = published_by(official.CIFAR100, ["cifar-100-python/train", "cifar-100-python/meta"])
    assert cifar.urls[0].endswith("/cifar-100-python.tar.gz")
    assert [name for name, _ in cifar.members] == ["cifar-100-python/train", "cifar-100-python/meta"]
    assert dict(cifar.members)["cifar-100-python/meta"] == official.CIFAR100.meta["md5"]
    assert [file.name for file in published_by(official.SVHN, [])] == ["train_32x32.mat", "test_32x32.mat"]
    images = published_by(official.FashionMNIST, [])[0]
    assert images.name == "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    assert images.urls[0].endswith("/train-images-idx3-ubyte.gz")
    (stl,) = published_by(official.STL10, ["stl10_binary/train_X.bin", "stl10_binary/test_y.bin"])
    assert [len(sum) for _, sum in stl.members] == [32, 32]


# -- a whole data set ------------------------------------------------------------------------------------------------


@pytest.fixture
def published_cifar(served, tmp_path):
    """What is served is CIFAR-10 in small; its layout."""
    reader = write_ten_format(tmp_path / "origin" / "cifar-10-batches-py", small_content())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "origin" / "cifar-10-batches-py", "cifar-10-batches-py")
    served.files["/cifar.tar.gz"] = packed.getvalue()
    reader.url, reader.tgz_md5 = f"{served.url}/cifar.tar.gz", md5(packed.getvalue())
    return OfficialCifar("cifar-10-batches-py", TEN_FILES, reader)


def test_a_dataset_is_fetched_and_read(published_cifar, tmp_path):
    dataset = small_dataset(published_cifar)
    dataset.download(tmp_path / "data")
    np.testing.assert_array_equal(dataset.load(tmp_path / "data").test_x, small_content()["test_x"])


def test_a_damaged_official_file_is_fetched_again(published_cifar, tmp_path):
    dataset = small_dataset(published_cifar)
    dataset.download(tmp_path)
    (tmp_path / "small" / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"test_batch is not the official file.*run\.py data --download"):
        dataset.load(tmp_path)
    dataset.download(tmp_path)
    assert len(dataset.load(tmp_path).test_x) == 12


PROGRAM = """
import sys
from pathlib import Path
from datasets.layouts.fetching import Published, fetch
fetch([eval(sys.argv[1])], Path(sys.argv[2]))
"""


def test_killed_in_the_middle_nothing_half_is_taken_for_whole(published_cifar, served, tmp_path):
    dataset, folder = small_dataset(published_cifar), tmp_path / "data" / "small"
    (file,) = published_by(published_cifar.reader, [f"cifar-10-batches-py/{name}" for name in TEN_FILES])
    served.limit, served.waits = 60_000, threading.Event()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, repr(file), str(folder)], cwd=ROOT)
    part = folder / ".download" / file.name
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    served.waits.set()
    with pytest.raises(UserError, match="no data found"):
        dataset.load(tmp_path / "data")
    served.limit = None
    dataset.download(tmp_path / "data")
    assert served.asked == [("/cifar.tar.gz", 0), ("/cifar.tar.gz", served.asked[1][1])]
    assert served.asked[1][1] > 0
    np.testing.assert_array_equal(dataset.load(tmp_path / "data").test_x, small_content()["test_x"])
