"""The chunked loss equals F.cross_entropy over all logits, in value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.data.batches import Batch
from nmtcli.losses import cross_entropy, token_nll
from nmtcli.losses.cross_entropy import CrossEntropy, chunked_cross_entropy, nll_by
from tests.oracles import PAIRS, tiny

N, E, V = 23, 5, 11


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_elements", [1, 4 * V, 10_000])
def test_chunks_equal_all_logits_at_once(smoothing: float, chunk_elements: int) -> None:
    torch.manual_seed(7)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((N, E), (V, E), (V,))]
    readout_NE, projection_VE, bias_V = inputs
    targets_N = torch.randint(V, (N,))
    mask_N = torch.rand(N) > 0.3
    loss, nll = chunked_cross_entropy(
        *(readout_NE, projection_VE, bias_V, targets_N, mask_N),
        label_smoothing=smoothing,
        chunk_elements=chunk_elements,
    )
    logits_NV = F.linear(readout_NE, projection_VE, bias_V)[mask_N]
    expected = F.cross_entropy(logits_NV, targets_N[mask_N], reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(nll, F.cross_entropy(logits_NV, targets_N[mask_N], reduction="sum"), atol=1e-10, rtol=0)
    ours = torch.autograd.grad(3 * loss, inputs)
    theirs = torch.autograd.grad(3 * expected, inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_a_bf16_readout_gives_the_loss_to_its_rounding() -> None:
    torch.manual_seed(8)
    readout_NE, projection_VE, bias_V = torch.randn(40, 32), torch.randn(50, 32) / 6, torch.randn(50)
    targets_N, mask_N = torch.randint(50, (40,)), torch.ones(40, dtype=torch.bool)
    exact, _ = chunked_cross_entropy(readout_NE, projection_VE, bias_V, targets_N, mask_N, label_smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, _ = chunked_cross_entropy(readout_NE, projection_VE, bias_V, targets_N, mask_N, label_smoothing=0.1)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=1e-2, atol=0)


def test_no_autocast_context_chooses_the_types_inside_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (40, 32), (50, 32), (50,)
    readout_NE, projection_VE, bias_V = (torch.randn(*shape, requires_grad=True) for shape in shapes)
    targets_N, mask_N = torch.randint(50, (40,)), torch.ones(40, dtype=torch.bool)
    seen = []

    def nll_that_looks(probs_NV: Tensor, targets_N1: Tensor, full: torch.dtype) -> Tensor:
        seen.append((probs_NV.dtype, torch.is_autocast_enabled("cpu")))
        return nll_by(probs_NV, targets_N1, full)

    for module in (cross_entropy, token_nll):
        monkeypatch.setattr(module, "nll_by", nll_that_looks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chunked_cross_entropy(readout_NE, projection_VE, bias_V, targets_N, mask_N, label_smoothing=0.1)
        token_nll.token_nll(readout_NE, projection_VE, bias_V, targets_N)
    assert seen == [(torch.bfloat16, False)] * 2


def test_loss_of_a_batch_is_the_sum_over_its_sentences() -> None:
    model = tiny()
    loss = CrossEntropy(label_smoothing=0.1)
    together = loss(model, Batch.of(PAIRS))
    alone = [loss(model, Batch.of([pair])) for pair in PAIRS]
    torch.testing.assert_close(together.loss, sum(one.loss for one in alone), atol=1e-9, rtol=0)
    assert loss.count(Batch.of(PAIRS)) == sum(len(target) for _, target in PAIRS)
