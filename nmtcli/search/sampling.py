"""One token after the other without looking back: the most probable one (greedy search), or one that is drawn."""

import torch
from torch import Tensor

from nmtcli.search.beam import Hypothesis, S, StepFunction, length_penalty, not_done


def truncate(log_probs_BKV: Tensor, *, top_k: int, top_p: float, temperature: float) -> Tensor:
    """The distribution that sampling draws from.

    Args:
        log_probs_BKV: the model's.
        top_k: keep so many of the most probable tokens; 0: all.
        top_p: of those keep the fewest that hold this probability; the most probable one always stays.
        temperature: probabilities become p ** (1 / temperature) first.
    Returns:
        probabilities_BKV that sum to 1; exactly 0 for what was cut.
    Source:
        top-k: Fan et al. 2018; top-p: Holtzman et al. 2020.
    """
    logits_BKV = log_probs_BKV / temperature
    if top_k:
        kth_BK1 = logits_BKV.topk(min(top_k, logits_BKV.shape[-1])).values[..., -1:]
        logits_BKV = logits_BKV.masked_fill(logits_BKV < kth_BK1, -torch.inf)
    probabilities_BKV = logits_BKV.softmax(dim=-1)
    if top_p < 1:
        sorted_BKV, order_BKV = probabilities_BKV.sort(dim=-1, descending=True)
        before_BKV = sorted_BKV.cumsum(dim=-1) - sorted_BKV
        sorted_BKV = sorted_BKV.masked_fill((before_BKV >= top_p) & (before_BKV > 0), 0.0)
        probabilities_BKV = torch.zeros_like(probabilities_BKV).scatter(-1, order_BKV, sorted_BKV)
        probabilities_BKV = probabilities_BKV / probabilities_BKV.sum(dim=-1, keepdim=True)
    return probabilities_BKV


def draw(probabilities_BKV: Tensor, uniform_BK: Tensor) -> Tensor:
    """Tokens by inverting the cumulative distribution; a token of probability 0 is never drawn.

    Args:
        probabilities_BKV: sum to 1.
        uniform_BK: in [0, 1).
    Returns:
        tokens_BK.
    """
    cumulative_BKV = probabilities_BKV.cumsum(dim=-1)
    total_BK1 = cumulative_BKV[..., -1:].contiguous()
    wanted_BK1 = uniform_BK.unsqueeze(-1).to(cumulative_BKV.dtype).contiguous()
    place_BK1 = torch.searchsorted(cumulative_BKV, wanted_BK1, right=True)
    last_BK1 = torch.searchsorted(cumulative_BKV, total_BK1)  # rounding can leave the sum below 1
    return torch.minimum(place_BK1, last_BK1).squeeze(-1)


def step_by_step(
    step: StepFunction[S],
    state: S,
    *,
    source_mask_BS: Tensor,
    max_lengths_B: Tensor,
    bos: int,
    eos: int,
    alpha: float = 0.0,
    uniform_BKT: Tensor | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    temperature: float = 1.0,
    accumulates: bool = True,
    with_attention: bool = False,
) -> list[list[Hypothesis]]:
    """Greedy search, or K samples of each sentence. Sentences that are done leave the batch.

    Args:
        step, state, source_mask_BS, max_lengths_B, bos, eos, alpha, accumulates, with_attention: as in
            `beam_search`.
        uniform_BKT: the random numbers in [0, 1) that decide each token of each sample; None: greedy, K = 1.
        top_k, top_p, temperature: see `truncate`.
    Returns:
        for each sentence K hypotheses; log-probabilities are the model's, before any truncation.
    """
    device = source_mask_BS.device
    B, K = len(max_lengths_B), 1 if uniform_BKT is None else uniform_BKT.shape[1]
    results: list[list[Hypothesis]] = [[] for _ in range(B)]
    sentence_B = torch.arange(B, device=device)
    tokens_BK = torch.full((B, K), bos, device=device)
    said: list[Tensor] = []
    attention: list[Tensor] = []
    scores_BK = torch.zeros((B, K), device=device)
    lengths_BK = torch.zeros((B, K), dtype=torch.long, device=device)
    same_BK = torch.arange(K, device=device).expand(B, K)
    while len(sentence_B):
        choices, weights_BKS, state = step(tokens_BK, state, 1 if uniform_BKT is None else None)
        if uniform_BKT is None:
            tokens_BK, of_token_BK = choices.ids_BKC[..., 0], choices.log_probs_BKC[..., 0]
        else:
            probabilities_BKV = truncate(choices.log_probs_BKC, top_k=top_k, top_p=top_p, temperature=temperature)
            place_BK1 = draw(probabilities_BKV, uniform_BKT[:, :, len(said)]).unsqueeze(-1)
            tokens_BK = choices.ids_BKC.gather(-1, place_BK1).squeeze(-1)
            of_token_BK = choices.log_probs_BKC.gather(-1, place_BK1).squeeze(-1)
        live_BK = lengths_BK == 0
        last_B1 = (max_lengths_B == len(said) + 1).unsqueeze(1)
        tokens_BK = tokens_BK.masked_fill(last_B1, eos)
        of_token_BK = torch.where(last_B1, choices.eos_BK, of_token_BK)
        scores_BK = torch.where(live_BK, scores_BK + of_token_BK if accumulates else of_token_BK, scores_BK)
        said.append(tokens_BK)
        if with_attention:
            attention.append(weights_BKS)
        lengths_BK = torch.where(live_BK & (tokens_BK == eos), len(said), lengths_BK)
        done_B = (lengths_BK > 0).all(dim=1)
        if not done_B.any():
            continue
        said_BKT = torch.stack(said, dim=2)
        attention_BKTS = torch.stack(attention, dim=2) if with_attention else None
        for row in done_B.nonzero().flatten().tolist():
            hypotheses = []
            for k, length in enumerate(lengths_BK[row].tolist()):
                score = float(scores_BK[row, k])
                ids = said_BKT[row, k, :length].tolist()
                kept = attention_BKTS[row, k, :length][:, source_mask_BS[row]] if attention_BKTS is not None else None
                hypotheses.append(Hypothesis(ids, score, score / length_penalty(length, alpha), kept))
            results[int(sentence_B[row])] = hypotheses
        rows_B = torch.tensor(not_done(done_B.tolist()), dtype=torch.long, device=device)
        state = state.select(rows_B, same_BK[rows_B])
        said = [values[rows_B] for values in said]
        attention = [values[rows_B] for values in attention]
        tokens_BK, scores_BK, lengths_BK, same_BK = (v[rows_B] for v in (tokens_BK, scores_BK, lengths_BK, same_BK))
        sentence_B, max_lengths_B, source_mask_BS = (v[rows_B] for v in (sentence_B, max_lengths_B, source_mask_BS))
        uniform_BKT = uniform_BKT[rows_B] if uniform_BKT is not None else None
    return results
