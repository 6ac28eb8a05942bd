from pathlib import Path

import pytest

from utils.errors import UserError
from utils.launch.grid import GRIDS, Grid, change, find_grid
from utils.launch.plan import COMPLETE, NEW, STARTED, Where, make_plan, read_extras


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a grid over data that are not at hand."""
    monkeypatch.setattr("utils.launch.plan.Fingerprints.of", lambda self, config: config.dataset)

    def make(grid, extras="", **typed):
        where = Where(tmp_path, "group", Path("data"))
        return make_plan(change(find_grid(grid), typed), read_extras(extras.split()), where)

    return make


def test_the_full_online_study_has_1332_runs_of_which_1044_are_different(plan):
    full = plan("adab2n-online")
    assert (full.num_asked, len(full.jobs), full.num_merged) == (1332, 1044, 288)
    assert len({job.identity for job in full.jobs}) == len({job.record.folder for job in full.jobs}) == 1044


def test_the_50_epoch_variant_uses_batches_of_32(plan):
    job = plan("adab2n-50epochs", seeds=(0,)).jobs[0]
    assert (job.config.epochs, job.config.batch_size, job.config.minibatch_size) == (50, 32, 32)


def test_demo_has_two_methods_five_norm_layers_and_two_seeds(plan):
    values = [job.config.values for job in plan("demo").jobs]
    assert len({value["model"] for value in values}) == 2
    assert {"TBBN", "AdaB2N"} < {value["nl"] for value in values}
    assert len({value["nl"] for value in values}) == 5
    assert {value["seed"] for value in values} == {0, 1}


def test_seeds_come_one_after_the_other(plan):
    seeds = [job.config.seed for job in plan("demo").jobs]
    assert seeds == sorted(seeds)


def test_searched_options_reach_the_layers_that_use_them(plan):
    jobs = plan("demo", kappa=(0.1, 0.2, 0.3), lambd=(1.0,), methods=("BN", "AdaB2N"), models=("er",), seeds=(0,)).jobs
    assert [job.config.nl for job in jobs] == ["BN", "AdaB2N", "AdaB2N", "AdaB2N"]
    assert [job.config.kappa for job in jobs[1:]] == [0.1, 0.2, 0.3]
    assert "--kappa" not in jobs[0].words


def test_methods_without_memory_take_no_buffer_and_no_regularizer(plan):
    jobs = plan("demo", models=("sgd",), methods=("AdaB2N",), buffer_sizes=(5, 6), lambd=(1.0, 2.0), seeds=(0,)).jobs
    assert len(jobs) == 2  # two values of kappa
    assert not any("--buffer_size" in job.words or "--lambd" in job.words for job in jobs)


def test_several_epochs_side_by_side(plan):
    assert {job.config.epochs for job in plan("demo", epochs=(1, 3)).jobs} == {1, 3}


def test_equal_spellings_are_one_run(plan):
    made = plan("demo", methods=("AdaB2N", "adab²n"), models=("er", "ER"), seeds=(0,))
    assert len(made.jobs) * 4 == made.num_asked


def test_further_options_reach_the_runs_that_use_them(plan):
    jobs = plan("demo", "--nf 8 --bs 5 --renormalize_absent", methods=("BN", "AdaB2N")).jobs
    assert {job.config.nf for job in jobs} == {8}
    assert {job.config.batch_size for job in jobs} == {5}
    assert {job.config.values.get("renormalize_absent") for job in jobs} == {None, True}


def test_typed_option_wins_over_the_grid(plan):
    jobs = plan("demo", "--kappa 0.9 --lr 0.2").jobs
    assert {job.config.values.get("kappa") for job in jobs} == {None, 0.9}
    assert {job.config.lr for job in jobs} == {0.2}


def test_state_of_a_job_is_what_the_disk_says(plan):
    job = plan("demo").jobs[0]
    assert job.state() == NEW
    job.record.open()
    job.record.checkpoint_path.touch()
    assert job.state() == STARTED
    job.record.write_result({})
    assert job.state() == COMPLETE


@pytest.mark.parametrize(
    ("typed", "extras", "message"),
    [
        ({"methods": ("BNN",)}, "", "unknown norm layer 'BNN'"),
        ({"models": ("erace",)}, "", "unknown method"),
        ({"datasets": ("digits",)}, "", "unknown dataset"),
        ({"methods": ()}, "", "--methods has no value"),
        ({}, "--beta 0.5", "no run of this plan uses --beta"),
        ({}, "--foo 0.5", "no run of this plan uses --foo"),
        ({}, "word", "'word' belongs to no option"),
        ({"methods": ("TBBN",)}, "--forward separate", "--forward"),
    ],
)
def test_mistakes_are_named_before_anything_starts(plan, typed, extras, message):
    with pytest.raises(UserError, match=message):
        plan("demo", extras, **typed)


def test_missing_data_stop_the_plan(tmp_path):
    with pytest.raises(UserError, match="cifar10"):
        make_plan(find_grid("adab2n-online"), {}, Where(tmp_path, "group", tmp_path))


def test_unknown_preset_is_named():
    with pytest.raises(UserError, match="unknown preset 'demoo'"):
        find_grid("demoo")


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_one(name):
    assert isinstance(find_grid(name), Grid)
