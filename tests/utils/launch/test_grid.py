"""The presets of the offline study, planned over data that are not at hand."""

from pathlib import Path

import pytest

from utils.config.variants import row_of
from utils.errors import UserError
from utils.launch.cells import read_extras
from utils.launch.data import Data
from utils.launch.grid import change, find_grid
from utils.launch.plan import Where, make_plan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))

    def make(grid, extras="", **typed):
        where = Where(tmp_path, "group", Path("data"))
        return make_plan(change(find_grid(grid), typed), read_extras(extras.split()), where).jobs

    return make


def test_the_study_of_norm_layers_has_eight_rows_on_two_datasets(plan):
    jobs = plan("tbbn-layers")
    rows = [(job.config.dataset, row_of(job.config.values)) for job in jobs]
    names = ("BN", "IN", "GN", "SN", "BRN", "CN", "CN*", "TBBN")
    assert rows == [(dataset, name) for dataset in ("seq-cifar100", "seq-imagenet100") for name in names]
    assert {(job.config.model, job.config.seed, job.config.buffer_size) for job in jobs} == {("ft", 0, 2000)}
    schedules = {(job.config.dataset, job.config.backbone, job.config.epochs, job.config.milestones) for job in jobs}
    assert schedules == {
        ("seq-cifar100", "resnet32", 160, (80, 120)),
        ("seq-imagenet100", "resnet18_imagenet", 100, (40, 80)),
    }
    groups = {row_of(job.config.values): job.config.values.get("num_groups") for job in jobs}
    assert (groups["CN"], groups["CN*"], groups["GN"]) == (8, 16, None)


def test_the_study_of_methods_has_six_methods_and_three_norm_layers(plan):
    jobs = plan("tbbn-methods")
    assert len(jobs) == 36
    assert {job.config.model for job in jobs} == {"ft", "eeil", "lucir", "podnet", "ssil", "afc"}
    assert {job.config.nl for job in jobs} == {"BN", "CN", "TBBN"}
    assert {job.config.buffer_size for job in jobs} == {2000}


def test_runs_that_both_studies_have_are_the_same(plan):
    shared = {job.identity for job in plan("tbbn-layers")} & {job.identity for job in plan("tbbn-methods")}
    assert len(shared) == 6


def test_bias_is_measured_of_every_norm_layer(plan):
    jobs = plan("bn-bias")
    assert sorted(job.config.nl for job in jobs) == sorted(
        ["BN", "LN", "IN", "GN", "SN", "BRN", "CN", "TBBN", "AdaB2N"]
    )
    assert {(job.config.dataset, job.config.epochs, job.config.retune_norms) for job in jobs} == {
        ("seq-cifar100", 160, 5)
    }


def test_bias_is_measured_on_other_data_too(plan):
    words = "--nf 8 --backbone resnet18"
    jobs = plan("bn-bias", words, datasets=("seq-digits",), epochs=(3,), buffer_size=(50,))
    assert {(job.config.epochs, job.config.buffer_size, job.config.nf) for job in jobs} == {(3, 50, 8)}


def test_a_variant_goes_with_any_grid_and_is_no_other_layer(plan):
    jobs = plan("demo", methods=("cn*", "CN"), models=("er",), seeds=(0,))
    assert [row_of(job.config.values) for job in jobs] == ["CN*", "CN"]
    with pytest.raises(UserError, match=r"--num_groups and CN\*, which is CN --num_groups 16"):
        plan("demo", "--num_groups 8", methods=("CN*",))
