"""Reference implementations for the benchmarks, written in the straightforward style of the toolkits of 2017 to 2021.

`InputFeedingModel` is for training: a packed bidirectional encoder, a decoder that steps through `nn.LSTMCell` because
it has input feeding (Luong et al. 2015, section 3.3), all logits at once, fp32.

`ClassicTranslator` translates with the weights of one of our models: packed sources, one `nn.LSTMCell` for each layer,
a full log-softmax and a top-k over beam * vocabulary at every step, and finished sentences stay until their batch ends.
Its search rules are ours, so its translations are the same.

`GNMT` is the reference on a GPU: layers and widths of NVIDIA's GNMT v2 with cuDNN's `nn.LSTM`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nmtcli.data.batches import Batch, padded
from nmtcli.data.subword import BOS, EOS, PAD
from nmtcli.model.seq2seq import Seq2Seq

EXTRA_LENGTH = 10  # allowed beyond `max_length` times the source length [tokens], as in search/host.py


class InputFeedingModel(nn.Module):
    """A bidirectional LSTM layer, and an LSTM layer with general attention and input feeding.

    Args:
        vocabulary: vocabulary size of each side.
        embedding: width of the embeddings.
        hidden: width of the decoder, and of both directions of the encoder together.
        dropout: on embeddings and on the attentional vector.
    """

    def __init__(self, vocabulary: int, embedding: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(vocabulary, embedding, padding_idx=PAD)
        self.target_embedding = nn.Embedding(vocabulary, embedding, padding_idx=PAD)
        self.encoder = nn.LSTM(embedding, hidden // 2, bidirectional=True, batch_first=True)
        self.cell = nn.LSTMCell(embedding + hidden, hidden)
        self.project_query = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.project = nn.Linear(hidden, vocabulary)
        self.dropout = dropout

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the target tokens, with label smoothing 0.1 [nats]."""
        source_BS, mask_BS, target_input_BT, target_output_BT = trimmed(batch)
        lengths_B = mask_BS.sum(dim=1)
        source_BSE = F.dropout(self.source_embedding(source_BS), self.dropout, self.training)
        packed = pack_padded_sequence(source_BSE, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        packed_memory, (hidden_2BH, cell_2BH) = self.encoder(packed)
        memory_BSH, _ = pad_packed_sequence(packed_memory, batch_first=True)
        hidden_BH = torch.cat([*hidden_2BH], dim=1)
        cell_BH = torch.cat([*cell_2BH], dim=1)
        target_BTE = F.dropout(self.target_embedding(target_input_BT), self.dropout, self.training)
        padding_BS = ~mask_BS
        attentional_BH = torch.zeros_like(hidden_BH)
        outputs = []
        for embedded_BE in target_BTE.unbind(dim=1):
            hidden_BH, cell_BH = self.cell(torch.cat([embedded_BE, attentional_BH], dim=1), (hidden_BH, cell_BH))
            scores_BS = torch.bmm(memory_BSH, self.project_query(hidden_BH).unsqueeze(2)).squeeze(2)
            weights_BS = scores_BS.masked_fill(padding_BS, -torch.inf).softmax(dim=1)
            context_BH = torch.bmm(weights_BS.unsqueeze(1), memory_BSH).squeeze(1)
            attentional_BH = self.combine(torch.cat([context_BH, hidden_BH], dim=1)).tanh()
            attentional_BH = F.dropout(attentional_BH, self.dropout, self.training)
            outputs.append(attentional_BH)
        logits_BTV = self.project(torch.stack(outputs, dim=1))
        return F.cross_entropy(
            logits_BTV.flatten(0, 1), target_output_BT.flatten(), ignore_index=PAD, label_smoothing=0.1
        )


def trimmed(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut source_BS, source_mask_BS, target_input_BT and target_output_BT to the longest sentence."""
    source, target = (int(mask.sum(dim=1).max()) for mask in (batch.source_mask_BS, batch.target_mask_BT))
    return (
        batch.source_BS[:, :source],
        batch.source_mask_BS[:, :source],
        batch.target_input_BT[:, :target],
        batch.target_output_BT[:, :target],
    )


class ClassicTranslator:
    """Straightforward beam search, with the weights of one of our models.

    Args:
        model: with LSTM layers in our default architecture (`gnmt`, bidirectional encoder), in eval mode.
        forbidden: disallowed ids.
        beam: K.
        batch_sentences: B; batches are sorted by length.
        max_length: longest output as a multiple of the source length.
        alpha: exponent of the length penalty.
    """

    def __init__(
        self,
        model: Seq2Seq,
        forbidden: Sequence[int],
        *,
        beam: int,
        batch_sentences: int,
        max_length: float,
        alpha: float,
    ) -> None:
        self.model = model
        self.encoder_layers = [
            bidirectional(forward.kernel, backward.kernel)  # type: ignore[arg-type]
            for forward, backward in zip(model.encoder.forward_layers, model.encoder.backward_layers, strict=True)
        ]
        self.cells = [cell_of(layer.kernel) for layer in model.decoder.layers]  # type: ignore[arg-type]
        self.forbidden = list(forbidden)
        self.beam = beam
        self.batch_sentences = batch_sentences
        self.max_length = max_length
        self.alpha = alpha

    @torch.inference_mode()
    def translate(self, sources: Sequence[list[int]]) -> list[list[int]]:
        """Return the best ids of each sentence, without EOS.

        Args:
            sources: ids, EOS at the end.
        """
        order = sorted(range(len(sources)), key=lambda n: len(sources[n]), reverse=True)
        found: list[list[int]] = [[] for _ in sources]
        for start in range(0, len(order), self.batch_sentences):
            numbers = order[start : start + self.batch_sentences]
            for number, ids in zip(numbers, self._search([sources[n] for n in numbers]), strict=True):
                found[number] = ids
        return found

    def _encode(self, source_BS: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        lengths_B = mask_BS.sum(dim=1)
        layer_BSH = F.embedding(source_BS, model.source_embedding.weight) * model.embedding_scale
        for number, layer in enumerate(self.encoder_layers):
            packed = pack_padded_sequence(layer_BSH, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
            output_BSH, _ = pad_packed_sequence(layer(packed)[0], batch_first=True)
            layer_BSH = output_BSH + layer_BSH if number and model.encoder.residual else output_BSH
        half = layer_BSH.shape[2] // 2
        rows_B = torch.arange(len(source_BS))
        return layer_BSH, torch.cat([layer_BSH[rows_B, lengths_B - 1, :half], layer_BSH[:, 0, half:]], dim=1)

    def _search(self, sources: list[list[int]]) -> list[list[int]]:
        model, beam = self.model, self.beam
        attention = model.decoder.attention
        assert attention is not None
        source_BS, mask_BS = padded(sources)
        sentences = len(sources)
        memory_BSH, summary_BH = self._encode(source_BS, mask_BS)
        first = model.decoder.first_state(summary_BH)
        rows_N = torch.arange(sentences).repeat_interleave(beam)
        memory_NSH, padding_NS = memory_BSH[rows_N], ~mask_BS[rows_N]
        keys_NSH = attention.keys(memory_BSH)[rows_N]
        hidden = [hidden_BH[rows_N] for hidden_BH in first.hidden_LNH]
        cell = [cell_BH[rows_N] for cell_BH in first.cell_LNH]
        limits = [math.floor(self.max_length * len(source)) + EXTRA_LENGTH for source in sources]
        limits_B1 = torch.tensor(limits).unsqueeze(1)
        scores_BK = torch.full((sentences, beam), -torch.inf)
        scores_BK[:, 0] = 0.0
        tokens_N = torch.full((sentences * beam,), BOS)
        output_NT = torch.empty(sentences * beam, 0, dtype=torch.long)
        finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
        for length in range(1, max(limits) + 1):
            log_probs_NV = self._step(tokens_N, hidden, cell, memory_NSH, keys_NSH, padding_NS).log_softmax(dim=1)
            vocabulary = log_probs_NV.shape[1]
            log_probs_NV[:, self.forbidden] = -torch.inf
            log_probs_BKV = log_probs_NV.view(sentences, beam, vocabulary)
            eos_BK = log_probs_BKV[:, :, EOS].clone()
            log_probs_BKV = log_probs_BKV.masked_fill((limits_B1 == length).unsqueeze(2), -torch.inf)
            log_probs_BKV[:, :, EOS] = eos_BK
            totals_BN = (scores_BK.unsqueeze(2) + log_probs_BKV).view(sentences, beam * vocabulary)
            best_BC, flat_BC = totals_BN.topk(2 * beam)
            parents_BC, words_BC = flat_BC // vocabulary, flat_BC % vocabulary
            penalty = ((5 + length) / 6) ** self.alpha
            for b, (scores, parents, words) in enumerate(
                zip(best_BC.tolist(), parents_BC.tolist(), words_BC.tolist(), strict=True)
            ):
                if len(finished[b]) >= beam:
                    continue
                for score, parent, word in list(zip(scores, parents, words, strict=True))[:beam]:
                    if word == EOS and math.isfinite(score):
                        finished[b].append((score / penalty, output_NT[b * beam + parent].tolist()))
            if all(len(some) >= beam or limit <= length for some, limit in zip(finished, limits, strict=True)):
                break
            scores_BK, choice_BK = best_BC.masked_fill(words_BC == EOS, -torch.inf).topk(beam)
            parents_N = (parents_BC.gather(1, choice_BK) + torch.arange(sentences).unsqueeze(1) * beam).view(-1)
            tokens_N = words_BC.gather(1, choice_BK).view(-1)
            output_NT = torch.cat([output_NT[parents_N], tokens_N.unsqueeze(1)], dim=1)
            hidden = [hidden_NH[parents_N] for hidden_NH in hidden]
            cell = [cell_NH[parents_N] for cell_NH in cell]
        return [max(some)[1] for some in finished]

    def _step(
        self,
        tokens_N: Tensor,
        hidden: list[Tensor],
        cell: list[Tensor],
        memory_NSH: Tensor,
        keys_NSH: Tensor,
        padding_NS: Tensor,
    ) -> Tensor:
        """Return logits_NV of one step; update `hidden` and `cell` in place."""
        model, decoder = self.model, self.model.decoder
        attention = decoder.attention
        assert attention is not None
        layer_NH = F.embedding(tokens_N, model.target_embedding_VE) * model.embedding_scale
        context_NH = layer_NH
        for number, one in enumerate(self.cells):
            input_NH = torch.cat([layer_NH, context_NH], dim=1) if number else layer_NH
            hidden[number], cell[number] = one(input_NH, (hidden[number], cell[number]))
            output_NH = hidden[number]
            layer_NH = output_NH + layer_NH if number and decoder.residual else output_NH
            if not number:
                scores_NS = torch.bmm(keys_NSH, layer_NH.unsqueeze(2)).squeeze(2)
                weights_NS = scores_NS.masked_fill(padding_NS, -torch.inf).softmax(dim=1)
                context_NH = torch.bmm(weights_NS.unsqueeze(1), memory_NSH).squeeze(1)
        readout_NE = decoder.readout(torch.cat([layer_NH, context_NH], dim=1)).tanh()
        return F.linear(readout_NE, model.projection_VE, model.projection_bias_V)


def bidirectional(forward: nn.LSTM, backward: nn.LSTM) -> nn.LSTM:
    """Join the layers of both directions into one `nn.LSTM`."""
    layer = nn.LSTM(forward.input_size, forward.hidden_size, bidirectional=True, batch_first=True)
    weights = dict(forward.state_dict()) | {f"{name}_reverse": value for name, value in backward.state_dict().items()}
    layer.load_state_dict(weights)
    return layer.eval()


def cell_of(layer: nn.LSTM) -> nn.LSTMCell:
    """Copy a layer's weights into a cell."""
    cell = nn.LSTMCell(layer.input_size, layer.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    return cell.eval()


class GNMT(nn.Module):
    """GNMT v2 with `nn.LSTM`: one bidirectional and several residual encoder layers; the first decoder layer attends.

    Args:
        vocabulary: vocabulary size of each side.
        width: width of embeddings and layers, and of each direction of the first encoder layer.
        layers: number of layers in encoder and decoder each.
        dropout: on the input of each layer.
    """

    def __init__(self, vocabulary: int, width: int, *, layers: int, dropout: float) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.target_embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.first = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        sizes = [2 * width, *[width] * (layers - 2)]
        self.encoder = nn.ModuleList(nn.LSTM(size, width, batch_first=True) for size in sizes)
        self.decoder = nn.ModuleList(
            nn.LSTM(size, width, batch_first=True) for size in [width, *[2 * width] * (layers - 1)]
        )
        self.keys = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, vocabulary)
        self.dropout = dropout

    def encode(self, source_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Return memory_BSH."""
        layer_BSH = F.dropout(self.source_embedding(source_BS), self.dropout, self.training)
        for number, lstm in enumerate([self.first, *self.encoder]):
            lengths_B = mask_BS.sum(dim=1).cpu()
            packed = pack_padded_sequence(layer_BSH, lengths_B, batch_first=True, enforce_sorted=False)
            output_BSH, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True)
            output_BSH = F.dropout(output_BSH, self.dropout, self.training)
            layer_BSH = output_BSH + layer_BSH if number > 1 else output_BSH
        return layer_BSH

    def decode(
        self,
        target_BT: Tensor,
        memory_BSH: Tensor,
        keys_BSH: Tensor,
        mask_BS: Tensor,
        states: list[tuple[Tensor, Tensor] | None],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
        """Return logits_BTV and the states of the layers after the last position."""
        layer_BTH = F.dropout(self.target_embedding(target_BT), self.dropout, self.training)
        after: list[tuple[Tensor, Tensor] | None] = []
        context_BTH = layer_BTH
        for number, lstm in enumerate(self.decoder):
            input_BTH = torch.cat([layer_BTH, context_BTH], dim=2) if number else layer_BTH
            output_BTH, state = lstm(input_BTH, states[number])
            after.append(state)
            output_BTH = F.dropout(output_BTH, self.dropout, self.training)
            if not number:
                scores_BTS = torch.bmm(output_BTH, keys_BSH.transpose(1, 2)) / output_BTH.shape[2] ** 0.5
                weights_BTS = scores_BTS.masked_fill(~mask_BS.unsqueeze(1), -torch.inf).softmax(dim=2)
                context_BTH = torch.bmm(weights_BTS.to(memory_BSH.dtype), memory_BSH)
            layer_BTH = output_BTH + layer_BTH if number > 1 else output_BTH
        return self.project(layer_BTH), after

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the target tokens, with label smoothing 0.1 [nats]."""
        source_BS, mask_BS, target_input_BT, target_output_BT = trimmed(batch)
        memory_BSH = self.encode(source_BS, mask_BS)
        logits_BTV, _ = self.decode(
            target_input_BT, memory_BSH, self.keys(memory_BSH), mask_BS, [None] * len(self.decoder)
        )
        return F.cross_entropy(
            logits_BTV.flatten(0, 1), target_output_BT.flatten(), ignore_index=PAD, label_smoothing=0.1
        )

    @torch.inference_mode()
    def translate(self, sources: Sequence[list[int]], limits: Sequence[int], *, beam: int) -> list[list[int]]:
        """Return the best ids of each sentence; no sentence leaves the batch before the last one is finished."""
        device = self.project.weight.device
        source_BS, mask_BS = (values.to(device) for values in padded(sources))
        memory_BSH = self.encode(source_BS, mask_BS)
        rows_N = torch.arange(len(sources), device=device).repeat_interleave(beam)
        memory_NSH, keys_NSH, mask_NS = memory_BSH[rows_N], self.keys(memory_BSH)[rows_N], mask_BS[rows_N]
        scores_BK = torch.full((len(sources), beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens_N = torch.full((len(rows_N),), BOS, device=device)
        output_NT = torch.empty(len(rows_N), 0, dtype=torch.long, device=device)
        ended_N = torch.zeros(len(rows_N), dtype=torch.bool, device=device)
        limits_N = torch.tensor(limits, device=device)[rows_N]
        states: list[tuple[Tensor, Tensor] | None] = [None] * len(self.decoder)
        for length in range(1, max(limits) + 1):
            logits_N1V, states = self.decode(tokens_N.unsqueeze(1), memory_NSH, keys_NSH, mask_NS, states)
            log_probs_NV = logits_N1V.squeeze(1).float().log_softmax(dim=1)
            only_eos_NV = torch.full_like(log_probs_NV, -torch.inf)
            only_eos_NV[:, EOS] = torch.where(ended_N, 0.0, log_probs_NV[:, EOS])
            log_probs_NV = torch.where((ended_N | (limits_N == length)).unsqueeze(1), only_eos_NV, log_probs_NV)
            totals_BN = (scores_BK.view(-1, 1) + log_probs_NV).view(len(sources), -1)
            scores_BK, flat_BK = totals_BN.topk(beam)
            offset_B1 = torch.arange(len(sources), device=device).unsqueeze(1) * beam
            parents_N = (flat_BK // log_probs_NV.shape[1] + offset_B1).view(-1)
            tokens_N = (flat_BK % log_probs_NV.shape[1]).view(-1)
            output_NT = torch.cat([output_NT[parents_N], tokens_N.unsqueeze(1)], dim=1)
            ended_N = ended_N[parents_N] | (tokens_N == EOS)
            states = [state and (state[0][:, parents_N], state[1][:, parents_N]) for state in states]
            if ended_N.all():
                break
        best_BT = output_NT.view(len(sources), beam, -1)[:, 0]
        return [ids[: ids.index(EOS) + 1] for ids in best_BT.tolist()]
