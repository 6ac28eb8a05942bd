import torch

from backbone.norm._mixture import Mixture

MATRIX = torch.tensor([[0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 2, -1, 3]], dtype=torch.float64)


def random_table(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_is_the_product_with_the_matrix():
    mixture = Mixture.of(MATRIX, torch.device("cpu"))
    tables = random_table(2, 4, 5)
    torch.testing.assert_close(mixture(tables.flatten(0, 1)), (MATRIX @ tables).flatten(0, 1))


def test_autocast_does_not_round_it():
    mixture, table = Mixture.of(MATRIX.float(), torch.device("cpu")), random_table(8, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixture(table), mixture(table.clone()))
        assert mixture(table).dtype == torch.float32
        torch.testing.assert_close(mixture(table), (torch.block_diag(MATRIX, MATRIX) @ table.double()).float())
