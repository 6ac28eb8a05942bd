import torch

from utils.run.best_epoch import BestEpoch


def network(value):
    layer = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(layer.weight, value)
    layer.running_mean.fill_(value)
    return layer


def offered(losses):
    best, layer = BestEpoch(), network(-1.0)
    for epoch, loss in enumerate(losses):
        torch.nn.init.constant_(layer.weight, epoch)
        layer.running_mean.fill_(epoch)
        best.offer(loss, epoch, layer)
    return best, layer


def test_weights_and_running_statistics_of_the_lowest_loss_come_back():
    best, layer = offered([3.0, 1.0, 2.0])
    best.restore(layer)
    assert layer.weight.tolist() == [1.0, 1.0]
    assert layer.running_mean.tolist() == [1.0, 1.0]


def test_equal_losses_keep_the_earlier_epoch():
    best, _ = offered([3.0, 1.0, 1.0])
    assert best.epoch == 1


def test_nothing_offered_leaves_the_network_as_it_is():
    layer = network(5.0)
    BestEpoch().restore(layer)
    assert layer.weight.tolist() == [5.0, 5.0]


def test_a_stage_does_not_see_the_best_epoch_of_the_one_before():
    best, layer = offered([1.0])
    best.restore(layer)
    torch.nn.init.constant_(layer.weight, 7.0)
    best.offer(9.0, 0, layer)
    best.restore(layer)
    assert layer.weight.tolist() == [7.0, 7.0]


def test_state_survives_saving():
    best, layer = offered([3.0, 1.0, 2.0])
    again = BestEpoch()
    again.load_state_dict(best.state_dict())
    again.offer(1.5, 3, layer)
    again.restore(layer)
    assert layer.weight.tolist() == [1.0, 1.0]
