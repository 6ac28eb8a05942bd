from pathlib import Path

import pytest

from tests.utils.launch.rig import CONFIG, RESULT, STUDY
from utils.config.configuration import configure
from utils.config.registry import NORMS
from utils.errors import UserError
from utils.launch.grid import GRIDS, Grid, change, find_grid, read_extras
from utils.launch.job import CommonOptions, Data, DataFacts
from utils.launch.plan import make_plan
from utils.records.collect import read_run
from utils.records.state import RunState


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a grid over data that are not at hand."""
    monkeypatch.setattr("utils.launch.plan.DataFacts.of", lambda self, config: Data(config.dataset, ()))

    def make(grid, extras="", **typed):
        where = CommonOptions(tmp_path, "group", Path("data"))
        base = STUDY if grid == "study" else find_grid(grid)
        return make_plan(change(base, typed), read_extras(extras.split()), where)

    return make


def test_the_full_online_study_has_1332_runs_of_which_1044_are_different(plan):
    full = plan("adab2n-online")
    assert (full.num_asked, len(full.jobs), full.num_merged) == (1332, 1044, 288)
    assert len({job.identity for job in full.jobs}) == len({job.record.folder for job in full.jobs}) == 1044


def test_the_50_epoch_variant_uses_batches_of_32(plan):
    job = plan("adab2n-50epochs", seeds=(0,)).jobs[0]
    assert (job.config.epochs, job.config.batch_size, job.config.minibatch_size) == (50, 32, 32)


def test_demo_has_two_methods_four_norm_layers_and_two_seeds(plan):
    values = [job.config.values for job in plan("demo").jobs]
    assert len({value["model"] for value in values}) == 2
    assert {"TBBN", "AdaB2N"} < {value["nl"] for value in values}
    assert len({value["nl"] for value in values}) == 4
    assert {value["seed"] for value in values} == {0, 1}


def test_demo_tunes_no_layer(plan):
    made = plan("demo")
    assert (made.searches, len(made.jobs)) == ((), 2 * 4 * 2)


def test_demo_can_have_fewer_epochs_than_its_learning_rate_decay_needs(plan):
    assert {job.config.epochs for job in plan("demo", epochs=(1,)).jobs} == {1}


def test_a_run_of_the_demo_is_one_of_its_grid(plan):
    assert configure(["--preset", "demo"]).identity("") in [job.config.identity("") for job in plan("demo").jobs]


def test_seeds_come_one_after_the_other(plan):
    seeds = [job.config.seed for job in plan("study").jobs]
    assert seeds == sorted(seeds)


def test_searched_options_reach_the_layers_that_use_them(plan):
    jobs = plan("study", kappa=(0.1, 0.2, 0.3), lambd=(1.0,), methods=("BN", "AdaB2N"), models=("er",), seeds=(0,)).jobs
    assert [job.config.nl for job in jobs] == ["BN", "AdaB2N", "AdaB2N", "AdaB2N"]
    assert [job.config.kappa for job in jobs[1:]] == [0.1, 0.2, 0.3]
    assert "--kappa" not in jobs[0].words


def test_methods_without_memory_take_no_buffer_and_no_regularizer(plan):
    jobs = plan("study", models=("sgd", "er"), methods=("AdaB2N",), buffer_size=(5,), lambd=(1.0,), seeds=(0,)).jobs
    words = [job.words for job in jobs if job.config.model == "sgd"]
    assert len(words) == 2  # two values of kappa
    assert not any("--buffer_size" in each or "--lambd" in each for each in words)


@pytest.mark.parametrize(
    ("typed", "option"),
    [
        ({"models": ("sgd",), "buffer_size": (5, 6)}, "buffer_size"),
        ({"methods": ("BN",), "kappa": (0.1,)}, "kappa"),
        ({"methods": ("BN", "TBBN"), "lambd": (0.1,)}, "lambd"),
        ({"models": ("sgd",), "ada_t0": (1,)}, "ada_t0"),
    ],
)
def test_an_axis_that_no_run_uses_is_refused(plan, typed, option):
    with pytest.raises(UserError, match=f"no run of this plan uses --{option}; it belongs to "):
        plan("study", **typed)


def test_several_epochs_side_by_side(plan):
    assert {job.config.epochs for job in plan("study", epochs=(1, 3)).jobs} == {1, 3}


def test_equal_spellings_are_one_run(plan):
    made = plan("study", methods=("AdaB2N", "adab²n"), models=("er", "ER"), seeds=(0,))
    assert len(made.jobs) * 4 == made.num_asked


def test_further_options_reach_the_runs_that_use_them(plan):
    jobs = plan("study", "--nf 8 --bs 5 --renormalize_absent", methods=("BN", "AdaB2N")).jobs
    assert {job.config.nf for job in jobs} == {8}
    assert {job.config.batch_size for job in jobs} == {5}
    assert {job.config.values.get("renormalize_absent") for job in jobs} == {None, True}


def test_an_option_goes_to_the_runs_in_which_it_changes_something(plan):
    jobs = plan("study", "--imbalance none exp --imbalance_ratio 20 --imbalance_order head_first", seeds=(0,)).jobs
    assert {job.config.values.get("imbalance_ratio") for job in jobs if "exp" in job.words} == {20.0}
    plain = [job.words for job in jobs if "exp" not in job.words]
    assert plain
    assert not any("--imbalance_ratio" in words or "20" in words or "head_first" in words for words in plain)


def test_what_is_measured_inside_tasks_is_no_matter_of_joint_training(plan):
    jobs = plan("study", "--eval_every 5 --eval_images 20", models=("joint", "er"), methods=("BN",), seeds=(0,)).jobs
    measured = {job.config.model: (job.config.eval_every, "--eval_images" in job.words) for job in jobs}
    assert measured == {"joint": (0, False), "er": (5, True)}


def test_typed_option_wins_over_the_grid(plan):
    jobs = plan("study", "--kappa 0.9 --lr 0.2").jobs
    assert {job.config.values.get("kappa") for job in jobs} == {None, 0.9}
    assert {job.config.lr for job in jobs} == {0.2}


def cells(made):
    """Seeds, kappa and the held-out share of AdaB2N's runs, in the order of the plan."""
    configs = [job.config for job in made.jobs if job.config.nl == "AdaB2N"]
    return [(config.seed, config.kappa, config.validation) for config in configs]


def test_a_search_by_validation_holds_out_a_tenth_and_other_layers_are_run_plainly(plan):
    made = plan("study", models=("er",), methods=("BN", "AdaB2N"), kappa=(0.1, 0.4), selection="validation")
    assert cells(made) == [(0, 0.1, 0.1), (0, 0.4, 0.1), (1, 0.1, 0.1), (1, 0.4, 0.1)]
    assert [job.config.validation for job in made.jobs if job.config.nl == "BN"] == [0.0, 0.0]
    (search,) = made.searches
    assert [(job.config.seed, job.config.kappa, job.config.validation) for job in search.finals(1)] == [
        (0, 0.4, 0.0),
        (1, 0.4, 0.0),
    ]
    assert (search.settings, search.budget, search.num_following) == (("kappa 0.1", "kappa 0.4"), 4, 2)


def test_search_seeds_are_those_of_cells_with_several_settings_only(plan):
    made = plan("study", models=("er",), methods=("BN", "AdaB2N"), kappa=(0.1, 0.4), search_seeds=(7, 0))
    assert cells(made) == [(0, 0.1, 0.0), (0, 0.4, 0.0), (7, 0.1, 0.0), (7, 0.4, 0.0)]
    assert [job.config.seed for job in made.jobs if job.config.nl == "BN"] == [0, 1]
    assert made.searches[0].num_following == 1
    assert made.searches[0].finals(0)[0] is made.searches[0].stage[0][1]


def test_equal_computations_are_one_setting(plan):
    """ER-ACE regularizes from the second task on in any case."""
    made = plan("study", models=("er_ace",), methods=("AdaB2N",), kappa=(0.4,), ada_t0=(0, 1), selection="oracle")
    assert (made.searches, len(made.jobs), made.num_asked) == ((), 2, 4)
    both = plan(
        "study", models=("er_ace",), methods=("AdaB2N",), kappa=(0.4, 1.0), ada_t0=(0, 1), selection="validation"
    )
    assert both.searches[0].settings == ("kappa 0.4, ada_t0 0", "kappa 1.0, ada_t0 0")
    assert (len(both.jobs), both.num_asked) == (4, 8)


def test_a_whole_study_is_searched_on_one_seed_with_a_third_of_the_runs(plan):
    made = plan("adab2n-online", selection="validation", search_seeds=(0,))
    budgets = {search.budget for search in made.searches}
    assert (len(made.searches), budgets) == (12, {16, 32})
    assert len(made.jobs) == 6 * 32 + 6 * 16 + 3 * 60
    assert sum(search.num_following for search in made.searches) == 36


def test_plugins_are_known_to_the_plan(plan, tmp_path):
    files = [tmp_path / name for name in ("first_planned.py", "second_planned.py")]
    for file in files:
        source = "from backbone.norm.bn import BN\nfrom utils.config.registry import NORMS\n\n\n"
        file.write_text(f"{source}@NORMS.register({file.stem!r})\nclass Layer(BN):\n    pass\n")
    norms = tuple(file.stem for file in files)
    try:
        extras = " ".join(f"--plugin {file}" for file in files)
        jobs = plan("study", extras, methods=norms, models=("er",), seeds=(0,)).jobs
        assert [job.config.nl for job in jobs] == list(norms)
        assert {str(file) for file in files} <= set(jobs[0].words)
    finally:
        for name in norms:
            NORMS._parts.pop(name, None)


def test_state_of_a_job_is_what_the_disk_says(plan):
    job = plan("study").jobs[0]
    assert job.state() == RunState.NOT_RUN
    job.record.open()
    job.record.checkpoint_path.touch()
    assert job.state() == RunState.STARTED
    job.record.write_config(CONFIG)
    job.record.write_result(RESULT)
    assert job.state() == RunState.COMPLETE
    job.record.result_path.write_text("{", encoding="utf-8")
    assert job.state() == RunState.DAMAGED


@pytest.mark.parametrize(
    ("typed", "extras", "message"),
    [
        ({"methods": ("BNN",)}, "", "unknown norm layer 'BNN'"),
        ({"models": ("erace",)}, "", "unknown method"),
        ({"datasets": ("digits",)}, "", "unknown dataset"),
        ({"methods": ()}, "", "--methods has no value"),
        ({}, "--beta 0.5", "no run of this plan uses --beta"),
        ({}, "--foo 0.5", "unknown option --foo."),
        ({}, "--imbalance_ratio 20", "--imbalance_ratio changes nothing in this run: it belongs to --imbalance exp"),
        ({}, "word", "unexpected argument 'word'"),
        ({"methods": ("TBBN",)}, "--forward separate", "--forward"),
        ({"search_seeds": ()}, "", "--search_seeds has no value"),
        ({"search_seeds": (0,), "methods": ("BN",)}, "", "--search_seeds changes nothing: no norm layer"),
        ({"search_seeds": (0,), "kappa": (0.4,)}, "", "--search_seeds changes nothing"),
        ({"selection": "validation", "methods": ("GN",)}, "", "--selection validation changes nothing"),
        ({"selection": "validation"}, "--validation", "--validation and --selection validation cannot be given"),
        ({}, "--seed 3", "--seed is no option of run.py: give --seeds"),
        ({}, "--model er", "give --models"),
        ({}, "--dataset seq-digits", "give --datasets"),
        ({}, "--nl BN", "give --methods"),
        ({}, "--device cpu", "CUDA_VISIBLE_DEVICES"),
        ({}, "--debug_mode 5", "utils/main.py"),
        ({}, "--batch_size 10 32 --budget_steps 9", "--budget_steps counts in batches, .* give one --batch_size"),
        ({}, "--plugin none.py", "there is no such file"),
        ({"methods": ("BN", "GN")}, "--nf 4", "GN.*: GN: 4 channels cannot be divided into 8 groups; .*--num_groups"),
    ],
)
def test_mistakes_are_named_before_anything_starts(plan, typed, extras, message):
    with pytest.raises(UserError, match=message):
        plan("study", extras, **typed)


def test_records_of_another_schema_are_told_from_damaged_ones(plan):
    job, other = plan("study").jobs[:2]
    for each, text in ((job, "{"), (other, '{"schema": 99}')):
        each.record.folder.mkdir(parents=True)
        each.record.config_path.write_text(text)
    assert [each.state() for each in plan("study").jobs[:3]] == [
        RunState.STARTED,
        RunState.OTHER_VERSION,
        RunState.NOT_RUN,
    ]
    assert "has schema 99, this version reads 1; choose another --results_dir" in read_run(other.record.folder).reason


def test_missing_data_are_told_with_the_plan(tmp_path):
    """What the runs are is known all the same."""
    plan = make_plan(find_grid("adab2n-online"), {}, CommonOptions(tmp_path, "group", tmp_path))
    assert len(plan.missing_data) == 3
    assert all("no data found" in line for line in plan.missing_data)
    assert len(plan.jobs) == 1044
    assert not any(job.has_data for job in plan.jobs)


def test_unknown_preset_is_named():
    with pytest.raises(UserError, match="unknown preset 'demoo'"):
        find_grid("demoo")


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_one(name):
    assert isinstance(find_grid(name), Grid)


# -- Data -------------------------------------------------------------------------------------------------------------


def configuration(dataset):
    return configure(f"--model sgd --dataset {dataset} --lr 0.1".split())


def test_images_of_each_class_are_counted(tmp_path):
    facts = DataFacts(tmp_path)
    data = facts.of(configuration("seq-digits"))
    assert sum(data.class_sizes) == 1442
    assert len(data.class_sizes) == 10
    assert len(data.fingerprint) == 64
    assert facts.of(configuration("seq-digits")) is data
    assert facts.mistakes == []


def test_what_is_missing_is_told_when_it_is_asked_for(tmp_path):
    facts = DataFacts(tmp_path)
    assert facts.of(configuration("seq-cifar10")).class_sizes == ()
    (line,) = facts.mistakes
    assert line.startswith("seq-cifar10: no data found")


def test_each_missing_dataset_is_told_once(tmp_path):
    facts = DataFacts(tmp_path)
    for name in ("seq-cifar10", "seq-digits", "seq-miniimg", "seq-cifar10"):
        facts.of(configuration(name))
    assert [line.split(":")[0] for line in facts.mistakes] == ["seq-cifar10", "seq-miniimg"]
    assert str(tmp_path / "miniimg") in facts.mistakes[1]
