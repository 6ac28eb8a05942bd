"""What is asked for: axes, what of them is searched, the group that is named by it, and the presets."""

from pathlib import Path

import pytest

from tests.utils.launch.rig import STUDY
from utils.config.variants import row_of
from utils.errors import UserError
from utils.launch.grid import change, default_group, find_grid, read_extras
from utils.launch.job import CommonOptions, Data
from utils.launch.plan import make_plan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a part of a preset or of a small study over data that are not at hand."""
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))

    def make(extras="", preset=None, **typed):
        few = {"models": ("er",), "methods": ("BN", "AdaB2N"), "seeds": (0,)}
        grid = change(find_grid(preset) if preset else STUDY, {**few, **typed})
        return make_plan(grid, read_extras(extras.split()), CommonOptions(tmp_path, "group", Path("data")))

    return make


def values(plan, *names):
    return [tuple(job.config.values.get(name) for name in names) for job in plan.jobs]


def test_several_values_of_any_option_are_an_axis_that_is_compared(plan):
    made = plan("--lr 0.03 0.1 --nf 8 16", methods=("BN",))
    assert values(made, "lr", "nf") == [(0.03, 8), (0.03, 16), (0.1, 8), (0.1, 16)]
    assert (made.axes.compared, made.axes.searched, made.searches) == (("lr", "nf"), (), ())


def test_each_run_takes_the_axes_that_its_parts_use(plan):
    made = plan("--num_groups 4 8", methods=("BN", "GN"))
    assert values(made, "nl", "num_groups") == [("BN", None), ("GN", 4), ("GN", 8)]


def test_one_value_is_fixed_and_what_is_typed_comes_before_the_preset(plan):
    assert values(plan("--lr 0.2 --kappa 0.7"), "lr", "kappa") == [(0.2, None), (0.2, 0.7)]
    made = plan("--channels_per_group 2 4", methods=("GN",))
    assert values(made, "num_groups", "channels_per_group") == [(None, 2), (None, 4)]


def test_typing_what_a_preset_searches_keeps_it_searched(plan):
    assert plan("--kappa 0.1 0.2").axes.searched == ("kappa",)
    assert plan("--kappa 0.1 0.2", searched=()).axes.compared == ("kappa",)


def test_what_is_searched_replaces_what_the_preset_searches(plan):
    axes = plan("--lr 0.03 0.1", searched=("lr",)).axes
    assert (axes.searched, axes.compared) == (("lr",), ("kappa",))


def test_parts_are_an_axis_with_their_own_options(plan):
    made = plan("--backbone resnet18 resnet32", methods=("BN",))
    assert values(made, "backbone", "nf") == [("resnet18", 16), ("resnet32", None)]


def test_aliases_are_one_option(plan):
    made = plan("--custom_class_order identity protocol", methods=("BN",))
    assert values(made, "class_order") == [("identity",), ("protocol",)]


def test_both_batch_sizes_are_one_axis(plan):
    sizes = ("batch_size", "minibatch_size")
    assert values(plan("--bs 5 8", methods=("BN",)), *sizes) == [(5, 5), (8, 8)]
    assert values(plan("--bs 5", methods=("BN",)), *sizes) == [(5, 5)]
    assert values(plan("--batch_size 5 8 --minibatch_size 4", methods=("BN",)), *sizes) == [(5, 4), (8, 4)]
    assert values(plan("--bs 5 8", methods=("BN",), models=("sgd",)), *sizes) == [(5, None), (8, None)]
    typed = {"preset": "adab2n-50epochs", "datasets": ("seq-cifar10",), "methods": ("BN",), "buffer_size": (500,)}
    assert values(plan("--bs 5", **typed), *sizes) == [(5, 5)]
    assert plan("--bs 5 8", methods=("BN",)).axes.compared == ("batch_size",)
    assert plan("--bs 5 8", searched=("bs", "kappa")).axes.searched == ("batch_size", "kappa")


def test_a_stored_setting_is_taken_with_its_epochs_as_a_single_run_takes_it(plan):
    typed = {"preset": "adab2n-online", "datasets": ("seq-cifar10",), "methods": ("BN",), "buffer_size": (500,)}
    assert values(plan("--load_best_args", **typed), "epochs", "batch_size") == [(50, 32)]
    assert values(plan("--load_best_args", **typed, epochs=(1,)), "epochs", "batch_size") == [(1, 32)]


@pytest.mark.parametrize(
    ("extras", "typed", "message"),
    [
        ("--sharpness 1 2", {}, "unknown option --sharpness. See --help."),
        ("--num_groups 4 8", {}, "no run of this plan uses --num_groups; it belongs to norm layer CN, norm layer GN"),
        ("--num_groups 4 8", {"methods": ("CN*",)}, "--num_groups and CN*, which is CN --num_groups 16, cannot be"),
        ("--bs 5 8 --batch_size 5", {}, "--bs sets --batch_size too: leave out one of them"),
        ("--bs 5 --minibatch_size 5", {}, "--bs sets --minibatch_size too: leave out one of them"),
        ("--buffer_mode ring --data_root a --base_path b", {}, "--base_path is another name of an option that was"),
        ("--num_workers 4", {}, "there is no --num_workers here: images are kept on the device"),
        ("--no_affine 0 1", {}, "--no_affine takes one value: give --affine several"),
        ("--lr 0.1 --lr 0.2 0.3", {}, "--lr is given twice"),
        ("--lr 0.1 high", {}, "--lr: 'high' is not a number"),
        ("--notes a b", {}, "--notes takes one value"),
        ("--eval_every 0 5", {}, "--eval_every takes one value"),
        ("", {"searched": ("alpha",)}, "--search alpha: it is no axis of this plan, whose axes are: kappa"),
        ("", {"searched": ("lr",)}, "--search lr: it has one value"),
        ("--nf 8", {"searched": ("nf",)}, "--search nf: it has one value"),
        ("", {"searched": ("seeds",)}, "--search seeds: it is a row, a column or a repetition"),
        ("--backbone resnet18 resnet32", {"searched": ("backbone",)}, "--search backbone: it is a row, a column"),
    ],
)
def test_mistakes_are_one_line(plan, extras, typed, message):
    with pytest.raises(UserError) as error:
        plan(extras, **typed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# -- Groups -----------------------------------------------------------------------------------------------------------


def group(extras="", **typed):
    return default_group("demo", change(find_grid("demo"), typed), read_extras(extras.split()))


@pytest.mark.parametrize(
    ("extras", "typed"),
    [
        ("", {}),
        ("", {"seeds": (0, 1, 2, 3, 4)}),
        ("", {"datasets": ("seq-cifar10",), "models": ("er",), "methods": ("BN",)}),
        ("--nowandb --notes x --plugin a/b.py --eval_every 5 --data_root /data", {}),
    ],
)
def test_what_changes_no_cell_stays_in_the_group_of_the_preset(extras, typed):
    assert group(extras, **typed) == "demo"


def test_what_changes_results_is_in_the_name_of_the_group():
    assert group("--lr 0.1 0.03") == group("--lr 0.03 0.1") == "demo-lr-0.03-0.1"
    assert group("--lr 0.03") == "demo-lr-0.03"
    assert group("--sched_multistep_lr_gamma 0.5") == group("--lr_decay 0.5") == "demo-lr_decay-0.5"
    assert group("--fast", selection="validation", searched=("lr",)) == "demo-fast-search-lr-selection-validation"
    assert group(epochs=(1, 2)) == "demo-epochs-1-2"
    assert group("--lr 0.03", seeds=(7,)) == group("--lr 0.03")


def test_a_name_that_is_long_or_no_folder_is_a_digest():
    names = {group(f"--class_order {order}") for order in ("0,1", "1,0")} | {group("--lr " + "0.123456789 " * 9)}
    assert len(names) == 3
    assert all(len(name) == len("demo-") + 8 for name in names)


# -- Presets of the offline study -------------------------------------------------------------------------------------


@pytest.fixture
def jobs_of(tmp_path, monkeypatch):
    """Plans a whole preset over data that are not at hand."""
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))

    def make(grid, extras="", **typed):
        where = CommonOptions(tmp_path, "group", Path("data"))
        return make_plan(change(find_grid(grid), typed), read_extras(extras.split()), where).jobs

    return make


def test_the_study_of_norm_layers_has_eight_rows_on_two_datasets(jobs_of):
    jobs = jobs_of("tbbn-layers")
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


def test_the_study_of_methods_has_six_methods_and_three_norm_layers(jobs_of):
    jobs = jobs_of("tbbn-methods")
    assert len(jobs) == 36
    assert {job.config.model for job in jobs} == {"ft", "eeil", "lucir", "podnet", "ssil", "afc"}
    assert {job.config.nl for job in jobs} == {"BN", "CN", "TBBN"}
    assert {job.config.buffer_size for job in jobs} == {2000}


def test_runs_that_both_studies_have_are_the_same(jobs_of):
    shared = {job.identity for job in jobs_of("tbbn-layers")} & {job.identity for job in jobs_of("tbbn-methods")}
    assert len(shared) == 6


def test_bias_is_measured_of_every_norm_layer(jobs_of):
    jobs = jobs_of("bn-bias")
    assert sorted(job.config.nl for job in jobs) == sorted(
        ["BN", "LN", "IN", "GN", "SN", "BRN", "CN", "FRN", "DyT", "TBBN", "AdaB2N"]
    )
    assert {(job.config.dataset, job.config.epochs, job.config.retune_norms) for job in jobs} == {
        ("seq-cifar100", 160, 5)
    }


def test_bias_is_measured_on_other_data_too(jobs_of):
    words = "--nf 8 --backbone resnet18"
    jobs = jobs_of("bn-bias", words, datasets=("seq-digits",), epochs=(3,), buffer_size=(50,))
    assert {(job.config.epochs, job.config.buffer_size, job.config.nf) for job in jobs} == {(3, 50, 8)}


def test_a_variant_goes_with_any_grid_and_is_no_other_layer(jobs_of):
    jobs = jobs_of("demo", "--nf 16", methods=("cn*", "CN"), models=("er",), seeds=(0,))
    assert [row_of(job.config.values) for job in jobs] == ["CN*", "CN"]
    with pytest.raises(UserError, match=r"--num_groups and CN\*, which is CN --num_groups 16"):
        jobs_of("demo", "--num_groups 8", methods=("CN*",))
