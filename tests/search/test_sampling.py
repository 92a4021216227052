"""Sampling: truncated distributions, and frequencies of draws."""

import pytest
import torch

from nmtcli.search.sampling import draw, truncate

LOG_PROBS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().reshape(1, 1, 4)


def test_top_k_keeps_the_k_most_probable() -> None:
    kept = truncate(LOG_PROBS, top_k=2, top_p=1.0, temperature=1.0).flatten()
    assert kept.tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0])


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.0, [1, 0, 0, 0]), (0.4, [1, 0, 0, 0]), (0.41, [4 / 7, 3 / 7, 0, 0])]
)
def test_top_p_keeps_the_fewest_that_hold_the_probability(top_p: float, expected: list[float]) -> None:
    kept = truncate(LOG_PROBS, top_k=0, top_p=top_p, temperature=1.0).flatten()
    assert kept.tolist() == pytest.approx(expected)


def test_temperature_raises_probabilities_to_its_inverse() -> None:
    kept = truncate(LOG_PROBS, top_k=0, top_p=1.0, temperature=0.5).flatten()
    squares = [0.16, 0.09, 0.04, 0.01]
    assert kept.tolist() == pytest.approx([one / sum(squares) for one in squares])


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    uniform_BK = ((torch.arange(10_000) + 0.5) / 10_000).reshape(100, 100)
    tokens_BK = draw(LOG_PROBS.exp().expand(100, 100, 4), uniform_BK)
    assert torch.bincount(tokens_BK.flatten(), minlength=4).tolist() == pytest.approx([4000, 3000, 2000, 1000], abs=2)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    probabilities_BKV = truncate(LOG_PROBS, top_k=2, top_p=1.0, temperature=1.0).expand(1, 3, 4)
    assert set(draw(probabilities_BKV, torch.tensor([[0.0, 0.5, 1.0]])).flatten().tolist()) <= {0, 1}
