from utils.config.configuration import configure
from utils.launch.data import DataFacts


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
