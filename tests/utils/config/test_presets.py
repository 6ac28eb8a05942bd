import pytest

from utils.config.configuration import configure
from utils.config.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_everything_in_a_preset_is_used(name):
    config = configure(["--preset", name])
    used = config.used()
    assert {key for key, value in PRESETS[name].items() if used.get(key) != value} <= {"n_tasks"}


@pytest.mark.parametrize("name", ["lucir-b50", "podnet-b50"])
def test_half_of_the_classes_come_first(name):
    config = configure(["--preset", name])
    assert config.arrangement.task_sizes(100, 0) == (50, *[10] * 5)
    assert config.protocol == "offline"
    more = configure(["--preset", name, "--classes_per_task", "5"])
    assert more.arrangement.task_sizes(100, 0) == (50, *[5] * 10)
    typed = configure(["--preset", name, "--n_tasks", "6"])
    assert typed.arrangement.task_sizes(100, 0) == (50, *[10] * 5)
