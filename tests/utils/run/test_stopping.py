import os
import signal

import pytest

from utils.errors import STOP_SIGNALS, Stopped
from utils.run.stopping import StopRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_there_is_a_state_a_signal_ends_the_run_and_after_it_is_noted_once(number):
    former = signal.signal(number, signal.SIG_DFL)  # what these tests are started by may ignore it
    try:
        with StopRequest(), pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
        assert stopped.value.exit_code == 128 + number
        with StopRequest() as stop:
            stop.defer()
            os.kill(os.getpid(), number)
            assert stop.signal_number == number
            with pytest.raises(Stopped):
                os.kill(os.getpid(), number)
    finally:
        signal.signal(number, former)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal_number is None
    finally:
        signal.signal(signal.SIGHUP, former)
