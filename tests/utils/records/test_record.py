import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.report.rig import counts
from utils.config.registry import ROOT
from utils.errors import Busy, DiskError, UserError
from utils.records.record import Record, write_atomically


@pytest.fixture
def record(tmp_path):
    return Record.of_run(tmp_path, "group", "name", "0123456789abcdef")


def test_folder_is_named_by_run_and_hash(record, tmp_path):
    assert record.folder == tmp_path / "group" / "name-0123456789"


def test_second_process_is_refused_until_the_first_lets_go(record):
    held = record.open()
    with pytest.raises(Busy, match="written by another process"):
        Record(record.folder).open()
    held.close()
    Record(record.folder).open().close()


def test_a_refused_process_leaves_the_empty_folder_of_the_other(record):
    held = record.open()
    with pytest.raises(Busy):
        Record(record.folder).open()
    held.write_config({})
    assert held.config_path.exists()


def test_lock_of_a_killed_process_is_free(record):
    script = "import os, pathlib\nfrom utils.records.record import Record\n"
    script += f"Record(pathlib.Path({str(record.folder)!r})).open()\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    record.open().close()


def test_result_makes_the_run_complete(record):
    record.open()
    assert not record.complete
    assert record.read_result() is None
    record.write_result({"counts": counts([50, 60]), "steps": 7})
    assert record.complete
    assert record.read_result().steps == 7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}', "\x00\xff"])
def test_damaged_or_foreign_json_is_named(record, content):
    record.open()
    record.config_path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        record.read_config()


def test_cut_removes_what_lies_after_the_checkpoint(record):
    record.open()
    record.append_metrics({"step": 1})
    record.append_log("one")
    lengths = record.lengths()
    record.append_metrics({"step": 2})
    record.append_log("two")
    record.cut(lengths)
    assert [json.loads(line) for line in record.metrics_path.read_text().splitlines()] == [{"step": 1}]
    assert record.log_path.read_text() == "one\n"


def test_cut_never_lengthens(record):
    record.open()
    record.append_log("one")
    record.cut({"log.txt": 1000})
    assert record.log_path.read_text() == "one\n"


def test_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")

    def write(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_while_appending_is_a_disk_error(record):
    record.open()
    record.log_path.symlink_to("/dev/full")
    with pytest.raises(DiskError, match="make room"):
        record.append_log("text")


def test_folder_that_cannot_be_made_is_a_disk_error(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "folder")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match="Read-only"):
        Record(tmp_path / "results").open()


def test_folder_where_none_can_be_made_is_a_disk_error():
    with pytest.raises(DiskError, match="--results_dir"):
        Record(Path("/proc/none/run")).open()


def test_file_in_the_place_of_the_results_folder_is_a_mistake(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="results_dir"):
        Record(tmp_path / "results" / "group").open()


def test_without_a_lock_nothing_keeps_others_out(record):
    held = record.open()
    other = Record(record.folder).open(is_locked=False)
    other.close()
    assert record.is_held()
    held.close()
