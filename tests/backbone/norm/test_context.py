import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from backbone.norm import BatchContext, batch_context, begin_task, build_norm, norm_loss, undecayed_parameters
from tests.backbone.norm.rig import NAMES, context, make, maps, same_state, state_of


def network(*names):
    return nn.Sequential(*(build_norm(name, 8, spatial_size=3, num_tasks=4) for name in names))


@pytest.mark.parametrize(
    ("task", "tasks", "num_current", "message"),
    [
        (1, [0, 2, 1], 1, "between 0 and the task being trained, 1"),
        (1, [0, -1, 1], 1, "between 0 and"),
        (1, [0, 1], 3, "num_current is 3, but there are 2"),
        (1, [0, 1], -1, "num_current must be at least 0"),
        (-1, [], 0, "index of a task is at least 0"),
    ],
)
def test_impossible_descriptions(task, tasks, num_current, message):
    with pytest.raises(ValueError, match=message):
        BatchContext(task, torch.tensor(tasks, dtype=torch.int64), num_current)


@pytest.mark.parametrize(("task", "num_current"), [(1.0, 1), (1, 0.5)])
def test_indices_and_numbers_are_integers(task, num_current):
    with pytest.raises(TypeError, match="integer"):
        BatchContext(task, torch.tensor([0, 1]), num_current)


@pytest.mark.parametrize("tasks", [torch.zeros(3, dtype=torch.int32), torch.zeros(3, 1, dtype=torch.int64)])
def test_indices_of_another_kind(tasks):
    with pytest.raises(ValueError, match=r"\[N\] int64"):
        BatchContext(1, tasks, 1)


def test_indices_must_lie_on_the_host():
    with pytest.raises(ValueError, match="on the host"):
        BatchContext(1, torch.zeros(3, dtype=torch.int64, device="meta"), 1)


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
@pytest.mark.parametrize("described", [context(2, 8, 3), BatchContext(2, None, 13)])
def test_description_of_another_batch(name, described):
    layer = network(name)
    begin_task(layer, 2)
    with batch_context(layer, described), pytest.raises(ValueError, match=r"12 samples|has 12"):
        layer(maps())


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_description_of_another_task(name):
    layer = network(name)
    begin_task(layer, 1)
    with (
        pytest.raises(ValueError, match=r"task 2, but .* task 1 .* begin_task\(network, 2\)"),
        batch_context(layer, context(2)),
    ):
        pass


def test_tables_are_made_once_for_all_layers():
    described = context()
    device, dtype = torch.device("cpu"), torch.float32
    tables = described.tables(device, dtype)
    assert described.tables(device, dtype) is tables
    assert described.tables(device, torch.float64) is not tables
    assert tables.log_counts.exp().round().tolist() == [2, 2, 8]
    torch.testing.assert_close(tables.members.sum(0), torch.ones(3))
    torch.testing.assert_close(tables.members[8], torch.tensor([0.5, 0, 0]))


def test_absent_tasks_have_no_logit():
    tables = BatchContext(2, torch.tensor([2, 2, 0]), 2).tables(torch.device("cpu"), torch.float64)
    assert tables.log_counts.exp().round().tolist() == [1, 0, 2]
    assert tables.log_present.exp().tolist() == [1, 0, 1]
    assert (tables.members[:, 1] == 0).all()


def test_update_writes_in_place():
    described, other = context(), torch.tensor([2] * 8 + [1] * 4)
    tables = described.tables(torch.device("cpu"), torch.float32)
    pointers = [values.data_ptr() for values in vars(tables).values()]
    described.update(other)
    expected = BatchContext(2, other, 8).tables(torch.device("cpu"), torch.float32)
    assert all(torch.equal(values, vars(expected)[name]) for name, values in vars(tables).items())
    assert [values.data_ptr() for values in vars(tables).values()] == pointers
    with pytest.raises(ValueError, match="between 0 and"):
        described.update(other + 1)
    with pytest.raises(ValueError, match="as many samples"):
        described.update(other[:5])


def test_update_leaves_the_tensor_of_the_caller_alone():
    tasks = torch.tensor([2, 1, 0])
    described = BatchContext(2, tasks, 1)
    described.update(torch.tensor([0, 0, 0]))
    assert tasks.tolist() == [2, 1, 0]


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_context_is_forgotten_after_the_forward(name):
    told, fresh = network(name), network(name)
    for each in (told, fresh):
        begin_task(each, 2)
    with batch_context(told, context()):
        described = told(maps())
    plain = told(maps(7))  # another size, which the context would refuse
    torch.testing.assert_close(plain, fresh(maps(7)))
    assert (described - fresh(maps())).abs().max() > 1e-3


def test_context_is_forgotten_after_an_error():
    layer = network("TBBN")
    begin_task(layer, 2)
    with pytest.raises(ZeroDivisionError), batch_context(layer, context()):
        raise ZeroDivisionError
    layer(maps(5))


def test_copies_have_contexts_of_their_own():
    original = network("TBBN", "AdaB2N")
    begin_task(original, 2)
    with batch_context(original, context()):
        original(maps())
        double = copy.deepcopy(original)
        plain = double(maps(5))  # not described, so that any size will do
    assert plain.shape[0] == 5
    begin_task(double, 3)
    assert [layer.task for layer in original] == [2, 2]
    assert [layer.task for layer in double] == [3, 3]
    with batch_context(double, context(3)):
        original(maps(5))


@pytest.mark.parametrize("make_layer", [lambda _: network("TBBN"), copy.deepcopy])
def test_layers_that_join_later_are_told_too(make_layer):
    source = network("TBBN")
    whole = nn.Sequential(nn.Identity())
    begin_task(whole, 1)
    whole.append(make_layer(source))
    begin_task(whole, 2)
    assert whole[1][0].task == 2


def test_layer_that_is_moved_in_is_told_when_the_next_task_begins():
    whole, earlier = nn.Sequential(nn.Identity()), build_norm("TBBN", 8)
    begin_task(whole, 1)
    whole.append(earlier)
    begin_task(whole, 2)
    with batch_context(whole, context()):
        assert earlier.context is not None


def test_context_cannot_be_made_during_the_capture_of_a_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="run the step under it before"):
        context().tables(torch.device("cuda"), torch.float32)


def test_part_and_whole_reach_the_same_layers():
    part = network("TBBN")
    whole = nn.Sequential(part)
    begin_task(whole, 1)
    begin_task(part, 2)
    with batch_context(whole, context()):
        assert part[0].context is not None
    with batch_context(part, context()):
        assert part[0].context is not None


def test_networks_without_such_layers_need_nothing():
    plain = network("BN", "LN")
    begin_task(plain, 3)
    with batch_context(plain, context()):
        plain(maps())
    assert norm_loss(plain).item() == 0
    assert norm_loss(nn.Identity()).item() == 0


def test_norm_loss_is_the_sum_over_layers():
    layers = network("AdaB2N", "BN", "AdaB2N")
    x = maps()
    alone = copy.deepcopy(layers)
    layers(x)
    terms = []
    for layer in alone:
        x = layer(x)
        terms.append(norm_loss(layer))
    torch.testing.assert_close(norm_loss(layers), sum(terms))
    assert terms[0] > 0
    assert terms[2] > 0
    assert norm_loss(layers).dtype == torch.float32


def chain():
    """Layers whose settings are equal and layers whose settings are not, in one network."""
    torch.manual_seed(1)
    settings = [("TBBN", 8, {}), ("AdaB2N", 8, {"kappa": 0.4}), ("AdaB2N", 6, {"kappa": 0.4}), ("TBBN", 6, {})]
    settings += [
        ("AdaB2N", 6, {"kappa": 0}),
        ("TBBN", 6, {"momentum": 0.5}),
        ("AdaB2N", 6, {"renormalize_absent": True}),
    ]
    layers = [build_norm(name, width, num_tasks=4, **options) for name, width, options in settings]
    for layer in layers:
        nn.init.normal_(getattr(layer, "task_weight", layer.bias))
    layers.insert(2, nn.Conv2d(8, 6, 1))
    network = nn.Sequential(*layers).double()
    begin_task(network, 2)
    return network


@pytest.mark.parametrize("is_described", [True, False])
def test_layers_together_do_what_each_does_by_itself(is_described):
    together, alone, described = chain(), chain(), context()
    for seed in (2, 3):  # the second time with running statistics of which no two are alike
        x = maps(dtype=torch.float64, seed=seed)
        with batch_context(together, described) if is_described else nullcontext():
            y = together(x)
        regularizer, terms = norm_loss(together), []
        for layer in alone:
            with batch_context(layer, described) if is_described else nullcontext():
                x = layer(x)
            terms.append(norm_loss(layer))
        torch.testing.assert_close((y, regularizer), (x, sum(terms)))
        (y.sum() + regularizer).backward()
        (x.sum() + sum(terms)).backward()
    torch.testing.assert_close(state_of(together), state_of(alone))
    for parameter, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_a_layer_that_is_applied_twice_in_a_forward(name):
    twice, once = network(name).double(), network(name).double()
    for each in (twice, once):
        begin_task(each, 2)
    x = other = maps(dtype=torch.float64)
    with batch_context(twice, context()):
        x = twice(twice(x))
        saved = state_of(twice)
    for _ in range(2):
        with batch_context(once, context()):
            other = once(other)
    torch.testing.assert_close(x, other)
    torch.testing.assert_close(norm_loss(twice), norm_loss(once))
    torch.testing.assert_close(state_of(twice), state_of(once))
    torch.testing.assert_close(saved, state_of(once))


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_a_layer_that_is_not_trained_keeps_its_statistics(name):
    layers = network(name, name)
    begin_task(layers, 2)
    layers[0].eval()
    before = state_of(layers[0])
    with batch_context(layers, context()):
        layers(maps())
    layers.train()
    assert same_state(state_of(layers[0]), before)
    layers(maps(5))  # nothing of the other batch is left


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_what_needs_running_statistics_finds_them_while_the_context_is_in_force(name):
    inside, outside = (make(name) for _ in range(2))
    for layer in (inside, outside):
        begin_task(layer, 2)
    with batch_context(inside, context()):
        inside(maps())
        found = norm_loss(inside), inside.eval()(maps(seed=9))
    with batch_context(outside, context()):
        outside(maps())
    torch.testing.assert_close(found, (norm_loss(outside), outside.eval()(maps(seed=9))))
    torch.testing.assert_close(inside.state_dict(), outside.state_dict())


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_a_context_inside_another_takes_its_place_until_it_ends(name):
    nested, apart = (make(name) for _ in range(2))
    outer, inner = context(), context(num_current=9, num_memory=3)
    for layer in (nested, apart):
        begin_task(layer, 2)
    with batch_context(nested, outer):
        first = nested(maps())
        with batch_context(nested, inner):
            second = nested(maps(seed=5))
        third = nested(maps(seed=6))
    expected = []
    for described, seed in ((outer, 2), (inner, 5), (outer, 6)):
        with batch_context(apart, described):
            expected.append(apart(maps(seed=seed)))
    torch.testing.assert_close([first, second, third], expected)
    torch.testing.assert_close(nested.state_dict(), apart.state_dict())


def test_statistics_move_in_the_order_of_the_forwards_of_a_context():
    """The first batch has two groups, the second, without memory rows, one."""
    together, apart = (make("TBBN") for _ in range(2))
    described, batches = BatchContext(2, None, 8), (maps(12), maps(8, seed=5))
    for layer in (together, apart):
        begin_task(layer, 2)
    with batch_context(together, described):
        for x in batches:
            together(x)
    for x in batches:
        with batch_context(apart, described):
            apart(x)
    torch.testing.assert_close(together.state_dict(), apart.state_dict())


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N"])
def test_a_state_that_is_loaded_stays_as_it_is_when_the_context_ends(name):
    layer = make(name)
    begin_task(layer, 2)
    saved = state_of(layer)
    with batch_context(layer, context()):
        layer(maps())
        layer.load_state_dict(saved)
    assert same_state(state_of(layer), saved)


def test_task_weights_of_a_layer_that_is_not_trained_get_no_gradient():
    layers = network("AdaB2N", "AdaB2N")
    begin_task(layers, 2)
    layers[0].eval()
    with batch_context(layers, context()):
        y = layers(maps())
    y.square().sum().backward()
    assert layers[0].task_weight.grad is None
    assert layers[1].task_weight.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_was_first_run_in_inference_mode_can_be_trained(name):
    """As where statistics are taken anew by forwards that learn nothing; what the layers keep of them serves both."""
    layer, described = make(name, channels=24, side=5), context(2, 20, 10)
    begin_task(layer, 2)
    with torch.inference_mode(), batch_context(layer, described):
        layer(maps(30, 24, 5))
    norm_loss(layer)
    with batch_context(layer, described):
        y = layer(maps(30, 24, 5).requires_grad_())
    (y.square().sum() + norm_loss(layer)).backward()


def test_norm_loss_of_a_double_network_is_double():
    assert norm_loss(network("BN").double()).dtype == torch.float64


def test_layer_that_was_told_nothing_is_in_the_first_task():
    layer, plain = network("TBBN"), network("BN")
    with batch_context(layer, context(0)):
        assert torch.equal(layer(maps()), plain(maps()))


def test_tasks_are_counted_from_zero():
    with pytest.raises(ValueError, match="at least 0"):
        begin_task(network("TBBN"), -1)


def test_loading_restores_the_task_on_the_host():
    told, fresh = network("TBBN", "AdaB2N"), network("TBBN", "AdaB2N")
    begin_task(told, 3)
    fresh.load_state_dict(told.state_dict())
    assert [layer.task for layer in fresh] == [3, 3]


def test_undecayed_parameters_are_the_task_weights():
    layers = network("AdaB2N", "BN", "AdaB2N", "SN")
    found = undecayed_parameters(layers)
    assert [id(parameter) for parameter in found] == [id(layers[0].task_weight), id(layers[2].task_weight)]
