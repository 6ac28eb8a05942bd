import pytest

from utils.config.configuration import configure
from utils.config.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_everything_in_a_preset_is_used(name):
    config = configure(["--preset", name])
    used = config.used()
    assert {key for key, value in PRESETS[name].items() if used.get(key) != value} <= {"n_tasks", "num_groups"}


@pytest.mark.parametrize("norm", ["GN", "CN"])
def test_the_channels_of_the_demo_can_be_divided_into_groups(norm):
    config = configure(["--preset", "demo", "--nl", norm])
    assert (config.used()["num_groups"], config.origins["num_groups"]) == (4, "preset demo")
    typed = configure(["--preset", "demo", "--nl", norm, "--channels_per_group", "2"])
    assert (typed.num_groups, typed.channels_per_group) == (None, 2)
    assert "num_groups" not in configure(["--preset", "demo"]).values


@pytest.mark.parametrize("name", ["lucir-b50", "podnet-b50"])
def test_half_of_the_classes_come_first(name):
    config = configure(["--preset", name])
    assert config.arrangement.task_sizes(100, 0) == (50, *[10] * 5)
    assert config.protocol == "offline"
    more = configure(["--preset", name, "--classes_per_task", "5"])
    assert more.arrangement.task_sizes(100, 0) == (50, *[5] * 10)
    typed = configure(["--preset", name, "--n_tasks", "6"])
    assert typed.arrangement.task_sizes(100, 0) == (50, *[10] * 5)
