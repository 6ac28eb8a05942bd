"""Runs that were killed or stopped, and go on: they end as if nothing had been."""

import json
import os
import signal

import pytest
import torch

from backbone.norm import _compiled
from models.base import Method
from tests.utils.main_rig import Killed, interrupt, only_folder, outcome, starter
from utils.config.registry import METHODS

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture
def start(small_root, tmp_path):
    return starter(small_root, tmp_path / "results")


RESUMED = {
    "er_ace": {"norm": "AdaB2N", "ignore_other_metrics": 0, "eval_every": 2},
    "derpp": {"norm": "TBBN", "buffer_mode": "ring", "epochs": 2, "flip": 1, "crop_padding": 2},
    "der": {"norm": "BRN", "optimizer": "adam", "buffer_mode": "class_balanced"},
    "er": {"norm": "CN", "lr_schedule": "cosine", "optim_mom": 0.9, "adjust_groups": 1, "crop_padding": 1},
    "sgd": {"norm": "SN", "optim_mom": 0.9, "epochs": 3, "milestones": "1,2", "lr_decay": 0.3},
    "joint": {"norm": "FRN", "optimizer": "adamw", "optim_wd": 0.1, "decay_norms": 0, "epochs": 2},
    "ft": {"norm": "TBBN", "optim_mom": 0.9},
    "eeil": {"norm": "AdaB2N", "eeil_second_stage": "balanced", "eeil_distill": "kl"},
    "ssil": {"norm": "CN", "adjust_groups": 1, "ratio_cycle": "reshuffle", "exemplar_selection": "icarl"},
    "lucir": {"norm": "SN", "reherd": 0, "exemplar_selection": "random"},
    "icarl": {"norm": "DyT", "batching": "ratio"},
    "podnet": {"norm": "TBBN", "optim_mom": 0.5},
    "afc": {"norm": "AdaB2N", "nca": "softmax"},
}


@pytest.mark.parametrize("method", RESUMED)
def test_killed_anywhere_it_ends_as_if_it_had_not_been(start, tmp_path, monkeypatch, method):
    options = RESUMED[method] | ({"batch_size": 16} if METHODS.get(method).protocol == "offline" else {})
    assert start(results=tmp_path / "whole", method=method, **options) == 0
    module = METHODS.get(method)
    kills = [(module, "update", calls) for calls in (1, 4, 3)]  # inside a step, before memory and checkpoint
    kills += [(torch.nn.Module, "eval", 1), (module, "begin_task", 1), (module, "end_task", 1), (module, "update", 2)]
    num_killed = 0
    for owner, name, calls in kills:  # a later one may find nothing left to do
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, calls)
            try:
                start(results=tmp_path / "killed", method=method, checkpoint_every=0, **options)
            except Killed:
                num_killed += 1
    assert num_killed >= 4
    assert start(results=tmp_path / "killed", method=method, checkpoint_every=0, **options) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("method", "stage", "options"),
    [
        pytest.param("eeil", "balance", {}, marks=pytest.mark.slow),
        ("eeil", "balance", {"eeil_distill": "kl"}),  # a second teacher
        ("podnet", "balance", {}),
        pytest.param("afc", "balance", {}, marks=pytest.mark.slow),  # PODNet's own stage
        ("afc", "importance", {}),
    ],
)
def test_killed_in_a_later_stage_it_ends_as_if_it_had_not_been(start, tmp_path, monkeypatch, method, stage, options):
    assert start(results=tmp_path / "whole", method=method, **options) == 0
    module, calls = METHODS.get(method), iter(range(1, 1000))
    observe = module.observe

    def observe_and_fall(self, batch):
        losses = observe(self, batch)
        if (self.task, self.stage_name) == (1, stage) and next(calls) == 2:
            raise Killed
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(module, "observe", observe_and_fall)
        with pytest.raises(Killed):
            start(results=tmp_path / "killed", method=method, checkpoint_every=0, **options)
    assert start(results=tmp_path / "killed", method=method, checkpoint_every=0, **options) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_stopped_in_an_evaluation_it_ends_as_if_it_had_not_been(start, tmp_path, monkeypatch, capsys, evaluation):
    """Also in the one before training, while memory is still empty."""
    assert start(results=tmp_path / "whole", ignore_other_metrics=0) == 0
    calls, scores = iter(range(1, 1000)), Method.scores

    def scores_and_signal(self, images):
        if next(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return scores(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "scores", scores_and_signal)
        assert start(results=tmp_path / "stopped", ignore_other_metrics=0) == 143
    words = "stopped by SIGTERM; its state is saved; the same command resumes it"
    assert capsys.readouterr().err.splitlines()[-1] == words
    assert start(results=tmp_path / "stopped", ignore_other_metrics=0) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_threads_of_the_first_start_are_kept(start, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, METHODS.get("er_ace"), "update", 2)
        with pytest.raises(Killed):
            start(checkpoint_every=0)
    assert start(threads=2) == 0
    config = json.loads((only_folder(tmp_path / "results") / "config.json").read_text())
    assert config["environment"]["threads"] == 1


def has_fused_norms(results):
    environment = json.loads((only_folder(results) / "config.json").read_text())["environment"]
    assert (environment["norm_compiler"] is not None) == environment["fused_norms"]
    return environment["fused_norms"]


@pytest.mark.parametrize(("began", "later", "has_note"), [("off", "auto", False), ("auto", "off", True)])
def test_norm_kernels_of_the_first_start_are_kept(start, tmp_path, monkeypatch, capsys, began, later, has_note):
    assert start(results=tmp_path / "whole", fused_norms=began) == 0
    started_with = has_fused_norms(tmp_path / "whole")
    if began == "auto" and not started_with:
        pytest.skip("there is no C++ compiler")
    with monkeypatch.context() as patch:
        interrupt(patch, METHODS.get("er_ace"), "update", 2)
        with pytest.raises(Killed):
            start(checkpoint_every=0, fused_norms=began)
    capsys.readouterr()
    assert start(fused_norms=later) == 0
    note = "note: --fused_norms off is ignored: the run resumes with fused kernels, as it started"
    assert (note in capsys.readouterr().out) == has_note
    assert has_fused_norms(tmp_path / "results") == started_with
    assert outcome(tmp_path / "results") == outcome(tmp_path / "whole")


def test_norm_kernels_of_the_first_start_are_kept_after_a_start_without(start, tmp_path, monkeypatch):
    """A machine that had no compiler once changes nothing for good, and `on` stays an error where there is none."""
    compiler_gone = {"XDG_CACHE_HOME": str(tmp_path / "empty"), "CXX": "no-such-compiler"}

    def killed(**options):
        with monkeypatch.context() as patch:
            interrupt(patch, METHODS.get("er_ace"), "update", 2)
            with pytest.raises(Killed):
                start(checkpoint_every=0, **options)

    killed()
    if not has_fused_norms(tmp_path / "results"):
        pytest.skip("there is no C++ compiler")
    with monkeypatch.context() as patch:
        for name, value in compiler_gone.items():
            patch.setenv(name, value)
        _compiled._library.cache_clear()
        assert start(fused_norms="on") == 2
        killed()
        assert not has_fused_norms(tmp_path / "results")
    _compiled._library.cache_clear()
    killed()
    assert has_fused_norms(tmp_path / "results")
    assert start() == 0
    assert has_fused_norms(tmp_path / "results")


@pytest.mark.parametrize("has_list", [False, True])
def test_a_run_that_goes_on_under_another_version_keeps_both(start, killed, has_list):
    path = killed / "config.json"
    config = json.loads(path.read_text())
    config["environment"]["torch"] = "1.0"
    config["environments"] = [config["environment"]]
    if not has_list:  # as earlier versions wrote it
        del config["environments"]
    path.write_text(json.dumps(config))
    assert start() == 0
    config = json.loads(path.read_text())
    assert config["environment"] == config["environments"][-1]
    assert [each["torch"] for each in config["environments"]] == ["1.0", torch.__version__]


@pytest.fixture
def killed(start, tmp_path, monkeypatch, capsys):
    """The folder of a run that was killed in its third step."""
    with monkeypatch.context() as patch:
        interrupt(patch, METHODS.get("er_ace"), "update", 3)
        with pytest.raises(Killed):
            start(checkpoint_every=0)
    capsys.readouterr()
    return only_folder(tmp_path / "results")


@pytest.mark.parametrize("damaged", ["checkpoint.pt", "config.json"])
def test_a_run_that_cannot_go_on_starts_over_in_one_line(start, tmp_path, killed, capsys, damaged):
    path = killed / damaged
    path.write_bytes(path.read_bytes()[:-100])
    kept = (killed / "checkpoint.pt").read_bytes()
    assert start() == 0
    shown = capsys.readouterr().out
    assert [f"{damaged} is damaged" in line for line in shown.splitlines() if "starts over" in line] == [True]
    assert "resuming" not in shown
    assert (killed / "checkpoint.pt.damaged").read_bytes() == kept
    assert start(results=tmp_path / "whole") == 0
    assert outcome(tmp_path / "results") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("place", ["device", "lengths", "best", "position", "method/network", "method/memory"])
def test_checkpoint_of_an_earlier_version_is_a_clear_line_and_stays(start, killed, capsys, place):
    path = killed / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    *above, name = ("state", *place.split("/"))
    entry = content
    for each in above:
        entry = entry[each]
    del entry[name]
    torch.save(content, path)
    assert start() == 2
    assert "checkpoint.pt was written by another version of the suite" in capsys.readouterr().err
    assert path.exists()


def test_stop_while_the_checkpoint_is_read_is_a_stop(start, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, METHODS.get("er_ace"), "update", 3)
        with pytest.raises(Killed):
            start(checkpoint_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *arguments, **more: os.kill(os.getpid(), signal.SIGTERM))
        assert start() == 143
    assert "damaged" not in capsys.readouterr().err
    assert start() == 0


def test_checkpoint_of_another_device_is_a_clear_line(start, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, METHODS.get("er_ace"), "update", 3)
        with pytest.raises(Killed):
            start(checkpoint_every=0)
    path = only_folder(tmp_path / "results") / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["state"]["device"] = "cuda"
    torch.save(content, path)
    assert start() == 2
    assert "--device cuda" in capsys.readouterr().err
