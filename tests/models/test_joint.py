from tests.models.rig import make, stages_of
from utils.data.plan import TaskStream


def test_trains_once_on_the_union_after_the_last_task():
    method = make("joint")
    assert [stages_of(method, task) for task in range(4)] == [[]] * 4
    (stage,) = stages_of(method, 4)
    assert stage.data == TaskStream((0, 1, 2, 3, 4))
