import pytest
import torch

from snaketune.merge.verification.exact_sums import is_near


@pytest.mark.parametrize("rank", [8, 64])
def test_a_float32_sum_is_near_however_its_products_were_added_up(rank):
    """Products that cancel leave an error of their own size, which is more than a step of the small sum."""
    torch.manual_seed(0)
    down, up, weight = torch.randn(rank, 200), torch.randn(150, rank), torch.zeros(150, 200)
    one_by_one = sum((2 * up[:, place, None] * down[place] for place in range(rank)), torch.zeros(150, 200))
    change = 2 * (up @ down)
    assert is_near(weight + one_by_one, weight, change)
    assert not is_near(weight + 1.01 * one_by_one, weight, change)
