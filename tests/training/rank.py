"""One rank of a training in float64, for test_distributed.py.

    python -m tests.training.rank DATA OUT LOSS UPDATES ACCUMULATE

Writes the weights and, for every rank, what it was trained on: the target ids of every sentence, update by update.
"""

import contextlib
import json
import sys
from pathlib import Path

import torch

from nmtcli.cli import end_rank
from nmtcli.config import ModelConfig, SearchConfig, TrainConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.corpus import DataDirectory
from nmtcli.losses.build import build_loss
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.checkpoint import ModelDirectory, Onlooker
from nmtcli.training.distributed import joined
from nmtcli.training.loop import Trainer
from nmtcli.training.optimizer import optimizer_for
from nmtcli.training.progress import Events, Progress
from nmtcli.training.validation import Validator


class Silent(Events):
    """Nobody is told."""


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
    device = torch.device("cpu")
    model_config = ModelConfig(hidden_size=8, embedding_size=6, dropout=0.0)
    config = TrainConfig(
        batch_tokens=440,
        max_updates=int(updates),
        accumulate=int(accumulate),
        validate_every=10,
        show=0,
        loss=loss_name,
    )
    with joined(device, 60) as world:
        about = {
            "source_size": data.source_subword.size,
            "target_size": data.target_subword.size,
            "joint": data.joint,
            "model": model_config.to_dict(),
        }
        directory_class = ModelDirectory if world.is_first else Onlooker
        directory = directory_class.planned(f"{out}/model", about)
        directory.create(source_model=data.path / "source.model", target_model=data.path / "target.model")
        torch.manual_seed(1)
        model = directory.new_model()
        optimizer = optimizer_for(model, config)
        progress = Progress()
        if Path(f"{out}/last").exists():
            saved = ModelDirectory(Path(out), about).load_last(model, optimizer, rank=world.rank)
            progress = Progress(**saved)
        world.broadcast(None)
        watched = Watched(
            build_loss(
                config,
                model_config,
                source=data.source_subword,
                target=data.target_subword,
                target_lang=data.target_lang,
            )
        )
        batches = TrainingBatches(
            data.train,
            data.source_subword,
            data.target_subword,
            batch_tokens=config.batch_tokens,
            seed=1,
            subword_alpha=0,
            workers=0,
            pin_memory=False,
            share=(world.rank, world.size),
        )
        validator = Validator(
            data.valid,
            data.source_subword,
            data.target_subword,
            target_lang="en",
            search=SearchConfig(beam=1),
            batch_tokens=256,
            samples=0,
            device=device,
            autocast=contextlib.nullcontext,
            world=world,
        )
        Trainer(
            model.train(),
            watched,
            optimizer,
            batches,
            validator,
            directory,
            config,
            progress=progress,
            mean=None,
            events=Silent(),
            device=device,
            autocast=contextlib.nullcontext,
            signal_seen=lambda: 0,
            world=world,
        ).run()
        Path(f"{out}/seen-{world.rank}.json").write_text(json.dumps(watched.seen), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_rank(0)
