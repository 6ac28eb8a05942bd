import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.records.rig import progress
from tests.utils.report.rig import counts
from utils.config.registry import ROOT
from utils.errors import Busy, DiskError, UserError
from utils.records.content import DamagedRecord, OtherVersion
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


def test_progress_stays_where_a_run_has_stopped_and_goes_when_it_is_complete(record):
    assert record.read_progress() is None
    record.open()
    record.write_progress(progress(step=50))
    record.write_progress(progress(step=60))
    record.close()
    assert Record(record.folder).read_progress() == progress(step=60)
    assert [path.name for path in record.folder.iterdir()] == ["progress.json"]
    record.open().write_result({})
    assert record.read_progress() is None


def test_progress_that_cannot_be_told_fails_no_run(record):
    record.open()
    record.progress_path.mkdir()
    record.write_progress(progress())
    record.remove_progress()
    assert record.read_progress() is None


@pytest.mark.parametrize("content", [None, bytes(500), b"\xff" * 9, b"[" * 100_000, b"null", b'{"schema": "1"}'])
def test_a_result_that_is_none_is_named(record, content):
    record.open()
    if content is None:
        record.result_path.mkdir()
    else:
        record.result_path.write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json"):
        record.read_result()


def test_what_the_disk_says_of_a_run(record):
    record.open()
    assert (record.complete, record.diverged, record.started) == (False, False, False)
    record.checkpoint_path.touch()
    assert record.started
    record.write_failure({})
    assert record.diverged
    record.write_result({})
    assert record.complete


def test_a_folder_that_may_not_be_entered_says_nothing(record, monkeypatch):
    record.open().write_result({})

    def refuse(path, **more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    assert (record.complete, record.diverged, record.started) == (False, False, False)
    assert not Record(record.folder).is_held()


def test_asking_who_holds_a_folder_neither_makes_nor_takes_one(record):
    assert not record.is_held()
    assert not record.folder.parent.exists()
    record.open().write_config({})
    assert Record(record.folder).is_held()
    record.close()
    assert not record.is_held()
    assert json.loads(record.config_path.read_text()) == {"schema": 1}


def test_a_file_in_the_place_of_the_folder_is_held_by_nobody(record):
    record.folder.parent.mkdir()
    record.folder.write_text("a file")
    assert not record.is_held()


def test_a_record_of_another_version_is_told_from_a_damaged_one(record):
    record.open()
    for number in (0, 2, 99):
        record.config_path.write_text(f'{{"schema": {number}}}')
        with pytest.raises(OtherVersion, match=f"name-.* has schema {number}.*choose another --results_dir or --group"):
            record.read_config()
    for content in ("{}", '{"schema": null}', '{"schema": "1"}', '{"schema": true}'):
        record.config_path.write_text(content)
        with pytest.raises(DamagedRecord, match=r"config\.json is damaged; --rerun sets it aside"):
            record.read_config()


def test_a_checkpoint_is_set_aside_over_an_earlier_one(record, monkeypatch):
    record.open()
    for content in (b"first", b"second"):
        record.checkpoint_path.write_bytes(content)
        aside = record.set_checkpoint_aside()
    assert (aside.name, aside.read_bytes(), record.started) == ("checkpoint.pt.damaged", b"second", False)

    def refuse(path, target):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DiskError, match=r"checkpoint\.pt: Permission denied"):
        record.set_checkpoint_aside()


def test_what_a_process_left_half_written_goes_with_the_next_one(record):
    left = record.open().folder / ".checkpoint.pt.4711.part"
    left.write_bytes(b"half")
    record.close()
    record.open()
    assert not left.exists()
