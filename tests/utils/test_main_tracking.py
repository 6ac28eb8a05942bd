"""What a whole run tells Weights & Biases of itself."""

import json

import pytest

from tests.utils.records.wandb_rig import install_fake
from utils.main import main

SAVE = "open(os.environ['FAKE_FOLDER'] + '/seen', 'a').write(json.dumps(settings, default=dict) + '\\n')"


@pytest.fixture
def settings_of(small_root, tmp_path, monkeypatch):
    """Runs one configuration after another; gives the arguments of each `wandb.init`."""
    folder = install_fake(tmp_path / "packages", monkeypatch, init=SAVE)
    shared = {"model": "er", "dataset": "seq-arrays", "n_tasks": 2, "nf": 4, "lr": 0.05, "buffer_size": 20}
    shared |= {"data_root": small_root, "results_dir": tmp_path, "threads": 1, "device": "cpu", "debug_mode": 1}
    shared |= {"wandb_mode": "offline", "group": "a study", "non_verbose": 1}

    def run(*changes):
        for change in changes:
            values = shared | change
            assert main([word for name, value in values.items() for word in (f"--{name}", str(value))]) == 0
        return [json.loads(line) for line in (folder / "seen").read_text().splitlines()]

    return run


def test_runs_of_a_cell_are_a_group_in_the_project_of_their_dataset(settings_of):
    first, other, another = settings_of({"seed": 0, "nl": "BN"}, {"seed": 11, "nl": "BN"}, {"seed": 0, "nl": "LN"})
    typed = "debug_mode=1 lr=0.05 n_tasks=2 nf=4"
    assert first["group"] == other["group"] == f"seq-arrays-er-20-BN-1ep {typed}"
    assert another["group"] == f"seq-arrays-er-20-LN-1ep {typed}"
    assert first["id"] != other["id"]
    assert (first["project"], first["job_type"], first["tags"]) == ("seq-arrays", "run", ["a study"])
    assert first["name"] == f"seq-arrays-er-20-BN-1ep {typed} s0"
    assert first["config"]["group"] == "a study"


def test_settings_are_told_apart_and_notes_are_notes(settings_of):
    layer = {"nl": "AdaB2N", "notes": "why this run"}
    low, high = settings_of({"kappa": 0.4, **layer}, {"kappa": 1.0, **layer})
    assert "kappa=0.4" in low["group"]
    assert "kappa=1.0" in high["group"]
    assert low["group"] != high["group"]
    assert low["name"] != high["name"]
    assert low["notes"] == "why this run"


def test_typed_names_win(settings_of):
    (seen,) = settings_of({"wandb_project": "mine", "wandb_name": "this one", "wandb_entity": "us"})
    assert (seen["project"], seen["name"], seen["entity"]) == ("mine", "this one", "us")
