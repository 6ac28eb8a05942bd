import pytest

from utils.errors import UserError
from utils.machine import default_threads


@pytest.mark.parametrize(("text", "threads"), [(None, 1), ("", 1), ("4", 4), ("3,1", 3)])
def test_one_thread_unless_the_environment_says_more(monkeypatch, text, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert default_threads() == threads


@pytest.mark.parametrize("text", ["0", "many", "-1"])
def test_no_number_is_one_line(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match=r"\$OMP_NUM_THREADS is .*--threads"):
        default_threads()
