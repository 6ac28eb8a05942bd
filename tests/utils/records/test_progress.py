import dataclasses
import json

import pytest

from tests.utils.records.rig import progress
from utils.records.progress import Progress, clock


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "task 2/3, step 50/120, loss 0.25"),
        ({"num_stages": 2, "stage": 1}, "task 2/3, stage 2/2, step 50/120, loss 0.25"),
        ({"num_epochs": 20, "epoch": 3}, "task 2/3, epoch 4/20, step 50/120, loss 0.25"),
        ({"phase": "choosing exemplars"}, "task 2/3, choosing exemplars, step 50/120, loss 0.25"),
        ({"total_steps": None, "loss": None}, "task 2/3, step 50"),
        ({"loss": 1.23456e30}, "task 2/3, step 50/120, loss 1.23e+30"),
    ],
)
def test_progress_in_words(changes, words):
    assert progress(**changes).words == words


def test_time_left_is_by_the_runs_own_speed():
    assert progress().seconds_left(1005.0) == pytest.approx(7.0)
    assert progress().seconds_left(1006.0) == pytest.approx(6.0)
    assert progress().seconds_left(2000.0) == 0.0
    assert progress(first_step=40).seconds_left(1005.0) == pytest.approx(35.0)


@pytest.mark.parametrize("changes", [{"total_steps": None}, {"first_step": 50}, {"step": 0}])
def test_time_left_is_unknown_where_nothing_tells_it(changes):
    assert progress(**changes).seconds_left(1005.0) is None


@pytest.mark.parametrize("loss", [0.0, 2.302585, -1.2345e-300, 1e308, -1.2e308, 123456789, 0.00001234567])
def test_no_loss_takes_more_than_eight_characters(loss):
    assert len(progress(loss=loss).loss_text) <= 8
    assert float(progress(loss=loss).loss_text) == pytest.approx(loss, rel=0.5)


def test_a_file_gives_back_what_was_written():
    told = progress(loss=None, device_bytes=7)
    assert Progress.from_json(told.to_json()) == told


@pytest.mark.parametrize(
    ("told", "peak", "may_grow"),
    [
        ({"task": 0, "device_bytes": 3 * 2**20}, 3.0, True),
        ({"task": 1, "device_bytes": 2**19}, 0.5, False),
        ({"task": 1, "device_bytes": None}, None, False),
    ],
)
def test_memory_is_that_of_the_gpu_and_may_grow_until_there_is_memory_to_replay(told, peak, may_grow):
    assert (progress(**told).peak_mb, progress(**told).may_grow) == (peak, may_grow)


def damaged(**changes):
    return json.dumps({"schema": 1} | dataclasses.asdict(progress()) | changes).encode()


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b"[1]", b"null", bytes(100), b"\xff\xfe", b"[" * 100_000, b"{}", b'{"schema": 1}'],
        *[damaged(schema=2), damaged(step="5"), damaged(step=None), damaged(step=-1), damaged(step=True)],
        *[damaged(loss="low"), damaged(loss=float("nan")), damaged(updated=[]), damaged(phase=3), damaged(more=1)],
    ],
)
def test_what_cannot_be_read_tells_nothing(content):
    assert Progress.from_json(content) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (360000, "100:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
