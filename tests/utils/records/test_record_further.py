import json
from pathlib import Path

import pytest

from tests.utils.records.rig import progress
from utils.errors import DiskError, UserError
from utils.records.content import DamagedRecord, OtherVersion
from utils.records.record import Record


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "group" / "run")


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
        with pytest.raises(OtherVersion, match=f"run.* has schema {number}.*choose another --results_dir or --group"):
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
