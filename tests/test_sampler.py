"""Drawing tokens."""

import torch

from backend.engine.sampler import sample

LOGITS = torch.tensor([1.0, 3.0, 2.0, -torch.inf])


def draw(temperature: float, top_k: int, uniform: torch.Tensor) -> torch.Tensor:
    rows = len(uniform)
    return sample(
        LOGITS.expand(rows, -1),
        torch.full((rows,), temperature),
        torch.full((rows,), top_k),
        top_k,
        uniform,
    )


def test_top_1_is_the_largest_whatever_the_number() -> None:
    assert draw(1.0, 1, torch.tensor([0.0, 0.5, 0.999999])).tolist() == [1, 1, 1]


def test_frequencies_follow_the_softmax_of_the_top_k() -> None:
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    tokens = draw(0.7, 2, uniform)
    share = torch.bincount(tokens, minlength=4) / len(tokens)
    expected = torch.tensor([3.0, 2.0]).div(0.7).softmax(0)
    assert torch.allclose(share, torch.tensor([0.0, expected[0], expected[1], 0.0]), atol=1e-4)


def test_a_number_that_rounds_to_one_stays_inside_the_top_k() -> None:
    assert draw(1.0, 2, torch.tensor([1.0])).item() == 2


def test_rows_of_a_batch_have_their_own_top_k() -> None:
    tokens = sample(
        LOGITS.expand(2, -1),
        torch.tensor([1.0, 1.0]),
        torch.tensor([1, 3]),
        3,
        torch.tensor([0.99, 0.99]),
    )
    assert tokens.tolist() == [1, 0]
