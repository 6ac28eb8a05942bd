from types import SimpleNamespace

import pytest

from utils.config.configuration import configure
from utils.config.registry import BACKBONES
from utils.errors import UserError
from utils.launch.networks import check_layers


def job(more):
    words = f"--model er --dataset seq-digits --lr 0.1 --epochs 1 --buffer_size 24 {more}"
    return SimpleNamespace(config=configure(words.split()), name="the run")


def test_a_network_that_cannot_be_made_without_memory_is_left_to_its_runs(monkeypatch):
    class Weighed(BACKBONES.get("resnet18")):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.weight = float(next(self.parameters()).detach().sum())

    monkeypatch.setitem(BACKBONES._parts, "weighed", Weighed)
    check_layers([job("--backbone weighed")])
    with pytest.raises(UserError, match="cannot be divided"):
        check_layers([job("--backbone weighed --nl GN --nf 4")])
