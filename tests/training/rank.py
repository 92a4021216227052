"""One rank of a training in float64, for test_distributed.py.

    python -m tests.training.rank DATA OUT LOSS UPDATES ACCUMULATE

Writes the weights and, for every rank, what it was trained on: the target ids of every sentence, update by update.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from nmtcli.cli import end_rank
from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.batches import Batch
from nmtcli.data.corpus import DataDirectory
from nmtcli.losses.build import build_loss
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.assembly import assembled, begun
from nmtcli.training.distributed import joined
from nmtcli.training.loop import Trainer
from tests.training.on_cpu import ON_CPU
from tests.training.run import Events


class Watched:
    """A loss that remembers what it was given."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.seen: list[tuple[int, list[int]]] = []

    def count(self, batch: Batch) -> int:
        return self.loss.count(batch)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        if batch.target_output_BT.tolist() != [[1, 3]]:  # what a rank without a batch is given
            self.seen += [(update, [one for one in ids if one]) for ids in batch.target_output_BT.tolist()]
        return self.loss(model, batch, update)


def main(data_path: str, out: str, loss_name: str, updates: str, accumulate: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    data = DataDirectory.open(data_path)
    model_config = ModelConfig(hidden_size=8, embedding_size=6, dropout=0.0)
    config = TrainConfig(
        model=f"{out}/model",
        batch_tokens=440,
        max_updates=int(updates),
        accumulate=int(accumulate),
        validate_every=10,
        loader_workers=0,
        show=0,
        loss=loss_name,
    )
    start = begun(model_config, config, data, "fp32")
    start = dataclasses.replace(start, has_state=start.stored.has_state())
    with joined(ON_CPU.device, 60) as world:
        watched = Watched(
            build_loss(
                config,
                model_config,
                target=data.target_subword,
                target_lang=data.target_lang,
            )
        )
        parts = assembled(start, ON_CPU, world, loss=watched)
        world.broadcast(None)  # each rank has read the state before the first one replaces it
        parts.writer.create(data.path / "source.model", data.path / "target.model", None)
        world.broadcast(None)
        Trainer(parts, events=Events(), signal_seen=lambda: 0).run()
        Path(f"{out}/seen-{world.rank}.json").write_text(json.dumps(watched.seen), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_rank(0)
