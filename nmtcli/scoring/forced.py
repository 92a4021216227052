"""Forced decoding: the log-probabilities that a model assigns to given translations."""

from collections.abc import Sequence

import torch

from nmtcli.data.batches import Batch, Ids, batches_by_length
from nmtcli.model.seq2seq import Seq2Seq


@torch.inference_mode()
def log_probabilities(
    model: Seq2Seq, pairs: Sequence[tuple[Ids, Ids]], *, batch_tokens: int, device: torch.device
) -> list[float]:
    """Return log P(target | source) for each pair.

    Args:
        model: in eval mode, on the device.
        pairs: source and target ids, each ending in EOS.
        batch_tokens: maximum of sentences times the longest sentence, source or target, in a batch [tokens/batch].
        device: device that holds the model.
    Returns:
        one log-probability per pair, in input order, counting EOS [nats]; equal, up to rounding, to the log-probability
        that a search computes for the same ids.
    """
    scores = [0.0] * len(pairs)
    for numbers in batches_by_length(pairs, batch_tokens):
        batch = Batch.of([pairs[n] for n in numbers]).to(device)
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        logits_BTV = model.logits(model.decode(memory, state, batch.target_input_BT))
        chosen_BT = logits_BTV.log_softmax(dim=-1).gather(-1, batch.target_output_BT.unsqueeze(-1)).squeeze(-1)
        sums_B = chosen_BT.masked_fill(~batch.target_mask_BT, 0.0).sum(dim=1)
        for number, score in zip(numbers, sums_B.tolist(), strict=True):
            scores[number] = score
    return scores
