"""Greedy search and sampling: hypotheses grow one token at a time and never branch."""

from typing import Generic, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmtcli.search.host import Hypothesis, Scoring, SearchBatch, SearchRules, length_penalty
from nmtcli.search.rules import AutoregressiveModel, Choices, Runner, S, encode_batch


def truncate(log_probs_BKV: Tensor, *, top_k: int, top_p: float, temperature: float) -> Tensor:
    """Apply temperature, top-k and top-p, in this order, to next-token distributions.

    Args:
        log_probs_BKV: log-probabilities predicted by the model.
        top_k: keep the `top_k` most probable tokens; 0: keep all tokens.
        top_p: of the remaining tokens, keep the smallest set whose total probability is at least `top_p`; 1: keep
            all. The most probable token is always kept.
        temperature: raise probabilities to the power 1 / temperature.
    Returns:
        probabilities_BKV, which sum to 1 and are exactly 0 for removed tokens.
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
    """Draw tokens by inverting the cumulative distribution; a token with probability 0 is never drawn.

    Args:
        probabilities_BKV: distributions that sum to 1.
        uniform_BK: random numbers in [0, 1).
    Returns:
        tokens_BK.
    """
    cumulative_BKV = probabilities_BKV.cumsum(dim=-1)
    total_BK1 = cumulative_BKV[..., -1:].contiguous()
    wanted_BK1 = uniform_BK.unsqueeze(-1).to(cumulative_BKV.dtype).contiguous()
    place_BK1 = torch.searchsorted(cumulative_BKV, wanted_BK1, right=True)
    last_BK1 = torch.searchsorted(cumulative_BKV, total_BK1)  # rounding can leave the sum below 1
    return torch.minimum(place_BK1, last_BK1).squeeze(-1)


class StepwiseState(NamedTuple):
    """State of greedy search or sampling for B sentences with K hypotheses each, between two steps.

    Attributes:
        tokens_BK: last token of each hypothesis.
        scores_BK: score of each hypothesis; fixed once the hypothesis is finished.
        lengths_BK: lengths of finished hypotheses, EOS included [tokens]; 0 for live hypotheses.
        own_BK: index k of each hypothesis, which is also its parent's index.
        max_lengths_B: maximum length of hypotheses, EOS included [tokens].
        source_mask_BS: True on real source tokens.
        uniform_BKT: a random number for each step of each hypothesis; None: greedy search.
    """

    tokens_BK: Tensor
    scores_BK: Tensor
    lengths_BK: Tensor
    own_BK: Tensor
    max_lengths_B: Tensor
    source_mask_BS: Tensor
    uniform_BKT: Tensor | None


class StepwiseProgram(Generic[S]):
    """Greedy search, or sampling of K hypotheses per sentence, for one batch; implements `search.host.SearchProgram`.

    The log-probabilities of samples are those predicted by the model, before temperature and truncation.

    Args:
        model: predicts the next tokens.
        rules: settings of the search; without `sampling`, the beam must be 1.
        device: device of the model.
        runner: pads the sources and computes the initial state; None: a plain `Runner`.
    """

    _state: StepwiseState
    _model_state: S
    _tokens: list[Tensor]  # tokens_BK of each step
    _attention: list[Tensor]  # weights_BKS of each step, if requested

    def __init__(
        self, model: AutoregressiveModel[S], rules: SearchRules, *, device: torch.device, runner: Runner | None = None
    ) -> None:
        self._model = model
        self._rules = rules
        self._device = device
        self._runner = runner or Runner()

    def start(self, batch: SearchBatch) -> None:
        """Encode the batch and set up the state before the first step."""
        rules, device = self._rules, self._device
        K = rules.beam
        mask_BS, self._model_state = encode_batch(self._model, batch, K, runner=self._runner, device=device)
        B, uniform_BKT = len(mask_BS), None
        if rules.sampling:
            uniform_BKT = torch.from_numpy(rules.sampling.uniform(batch.line_numbers, K, max(batch.max_lengths)))
        self._tokens, self._attention = [], []
        self._state = StepwiseState(
            tokens_BK=torch.full((B, K), rules.bos, device=device),
            scores_BK=torch.zeros((B, K), device=device),
            lengths_BK=torch.zeros((B, K), dtype=torch.long, device=device),
            own_BK=torch.arange(K, device=device).expand(B, K),
            max_lengths_B=torch.tensor(batch.max_lengths).to(device),
            source_mask_BS=mask_BS,
            uniform_BKT=None if uniform_BKT is None else uniform_BKT.to(device),
        )

    def advance(self) -> None:
        """Take one step with all hypotheses."""
        state, eos, steps = self._state, self._rules.eos, len(self._tokens)
        count = None if self._rules.sampling else 1
        choices, weights_BKS, self._model_state = self._model.step(state.tokens_BK, self._model_state, count)
        tokens_BK, of_token_BK = self._chosen(choices, state.uniform_BKT)
        live_BK = state.lengths_BK == 0
        last_B1 = (state.max_lengths_B == steps + 1).unsqueeze(1)
        tokens_BK = tokens_BK.masked_fill(last_B1, eos)
        of_token_BK = torch.where(last_B1, choices.eos_BK, of_token_BK)
        if self._rules.scoring is Scoring.LOG_PROBABILITY:
            of_token_BK = state.scores_BK + of_token_BK
        self._tokens.append(tokens_BK)
        if self._rules.with_attention:
            self._attention.append(weights_BKS)
        self._state = state._replace(
            tokens_BK=tokens_BK,
            scores_BK=torch.where(live_BK, of_token_BK, state.scores_BK),
            lengths_BK=torch.where(live_BK & (tokens_BK == eos), steps + 1, state.lengths_BK),
        )

    def _chosen(self, choices: Choices, uniform_BKT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose the next tokens; return tokens_BK and their log-probabilities (or logits)."""
        sampling = self._rules.sampling
        if sampling is None or uniform_BKT is None:
            return choices.ids_BKC[..., 0], choices.log_probs_BKC[..., 0]
        probabilities_BKV = truncate(
            choices.log_probs_BKC, top_k=sampling.top_k, top_p=sampling.top_p, temperature=sampling.temperature
        )
        place_BK1 = draw(probabilities_BKV, uniform_BKT[:, :, len(self._tokens)]).unsqueeze(-1)
        tokens_BK1, log_probs_BK1 = (
            values.gather(-1, place_BK1) for values in (choices.ids_BKC, choices.log_probs_BKC)
        )
        return tokens_BK1.squeeze(-1), log_probs_BK1.squeeze(-1)

    def done(self) -> list[bool]:
        """Return one boolean per sentence: True if all its hypotheses are finished."""
        done: list[bool] = (self._state.lengths_BK > 0).all(dim=1).tolist()
        return done

    def rows_for(self, sentences: int) -> int:
        """Return `sentences`, since this program needs no padding rows."""
        return sentences

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""
        rows_B = torch.tensor(rows, dtype=torch.long, device=self._device)
        state, uniform_BKT = self._state, self._state.uniform_BKT
        self._model_state = self._model_state.select(rows_B, state.own_BK[rows_B])
        self._tokens = [tokens_BK[rows_B] for tokens_BK in self._tokens]
        self._attention = [weights_BKS[rows_B] for weights_BKS in self._attention]
        self._state = StepwiseState(
            tokens_BK=state.tokens_BK[rows_B],
            scores_BK=state.scores_BK[rows_B],
            lengths_BK=state.lengths_BK[rows_B],
            own_BK=state.own_BK[rows_B],
            max_lengths_B=state.max_lengths_B[rows_B],
            source_mask_BS=state.source_mask_BS[rows_B],
            uniform_BKT=None if uniform_BKT is None else uniform_BKT[rows_B],
        )

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each of these rows; samples are in the order in which they were drawn."""
        state, rules = self._state, self._rules
        rows_B = torch.tensor(rows, dtype=torch.long, device=self._device)
        tokens_BKT = torch.stack(self._tokens, dim=2)[rows_B].tolist()
        attention_BKTS = torch.stack(self._attention, dim=2)[rows_B] if self._attention else None
        mask_BS = state.source_mask_BS[rows_B]
        of_rows = zip(tokens_BKT, state.lengths_BK[rows_B].tolist(), state.scores_BK[rows_B].tolist(), strict=True)
        found = []
        for row, (tokens, lengths, scores) in enumerate(of_rows):
            hypotheses = []
            for k, (ids, length, score) in enumerate(zip(tokens, lengths, scores, strict=True)):
                attention_TS = None
                if attention_BKTS is not None:
                    attention_TS = _as_array(attention_BKTS[row, k, :length][:, mask_BS[row]])
                rank = score / length_penalty(length, rules.alpha)
                hypotheses.append(Hypothesis(ids[:length], score, rank, attention_TS))
            found.append(hypotheses)
        return found


def _as_array(values: Tensor) -> npt.NDArray[np.floating]:
    """Convert a tensor to a numpy array in fp32 or better, since numpy has no bf16."""
    array: npt.NDArray[np.floating] = values.to(torch.promote_types(values.dtype, torch.float32)).cpu().numpy()
    return array
