"""The tables of a grid that run.sh has trained.

    python report.py WORK OUTDIR

reads WORK/<corpus>/<loss>-<seed>/ (<split>.<beam>.<target>, <split>.<beam>.json) and writes OUTDIR/<corpus>.md: for
each loss and beam BLEU and chrF on validation and test set, and a paired bootstrap against cross-entropy with the same
beam. At the end: which loss and beam the validation set chooses, and what it is worth on the test set against the
control with the beam that the validation set chooses for that. A run that is not done is left out.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from nmtcli.scoring.metrics import tokenizer_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeds import Array, lines_of, mean_bleu, paired_bootstrap, sentence_statistics, spread

CONTROL = "cross-entropy"
LOSSES = (CONTROL, "greedy", "greedy-passes", "beam", "risk", "max-margin", "sequence-nll")
BEAMS = ("1", "5")
System = tuple[str, str]  # loss and beam


class Corpus:
    """The runs of one corpus that are done."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        _, _, target = folder.name.rsplit("-", 2)
        self.runs = {loss: sorted(path.parent for path in folder.glob(f"{loss}-[0-9]*/done")) for loss in LOSSES}
        self.systems: list[System] = [(loss, beam) for loss in LOSSES if self.runs[loss] for beam in BEAMS]
        self.statistics: dict[str, dict[System, Array]] = {}
        for split in ("valid", "test"):
            references = lines_of(folder / f"{split}.{target}")
            self.statistics[split] = {
                (loss, beam): np.stack(
                    [
                        sentence_statistics(
                            lines_of(run / f"{split}.{beam}.{target}"), references, tokenizer_for(target)
                        )
                        for run in self.runs[loss]
                    ]
                )
                for loss, beam in self.systems
            }

    def scores(self, split: str, system: System, metric: str) -> list[float]:
        """Of each seed."""
        loss, beam = system
        return [self._score(run, split, beam)[metric]["score"] for run in self.runs[loss]]

    def signature(self, metric: str) -> str:
        """sacreBLEU's."""
        loss, beam = self.systems[0]
        return str(self._score(self.runs[loss][0], "test", beam)[metric]["signature"])

    def best(self, losses: tuple[str, ...]) -> System:
        """The loss and beam with the highest mean BLEU on the validation set."""
        there = [system for system in self.systems if system[0] in losses]
        return max(there, key=lambda system: mean_bleu(self.statistics["valid"][system]))

    @staticmethod
    def _score(run: Path, split: str, beam: str) -> dict[str, dict[str, float]]:
        scores: dict[str, dict[str, float]] = json.loads((run / f"{split}.{beam}.json").read_text(encoding="utf-8"))[
            "systems"
        ][0]["scores"]
        return scores


def against(corpus: Corpus, system: System, control: System) -> tuple[str, str]:
    """Difference of test BLEU and its p-value."""
    ours, theirs = (corpus.statistics["test"][one] for one in (system, control))
    return f"{mean_bleu(ours) - mean_bleu(theirs):+.2f}", f"{paired_bootstrap(ours, theirs):.3f}"


def table(corpus: Corpus) -> str:
    """The table of one corpus in Markdown, and what follows from it."""
    lines = [
        "| loss | beam | seeds | valid BLEU | valid chrF2 | test BLEU | test chrF2 | against control, same beam | p |",
        "|" + "---|" * 9,
    ]
    for system in corpus.systems:
        loss, beam = system
        has_control = (CONTROL, beam) in corpus.systems and loss != CONTROL
        difference, p_value = against(corpus, system, (CONTROL, beam)) if has_control else ("", "")
        cells = [
            loss,
            beam,
            str(len(corpus.runs[loss])),
            *(
                spread(corpus.scores(split, system, metric))
                for split in ("valid", "test")
                for metric in ("BLEU", "chrF2")
            ),
            difference,
            p_value,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", ", ".join(f"{metric}: `{corpus.signature(metric)}`" for metric in ("BLEU", "chrF2"))]
    others = tuple(loss for loss in LOSSES if loss != CONTROL and corpus.runs[loss])
    if others and corpus.runs[CONTROL]:
        chosen, control = corpus.best(others), corpus.best((CONTROL,))
        difference, p_value = against(corpus, chosen, control)
        lines += [
            "",
            f"The validation set chooses {chosen[0]} with beam {chosen[1]}, and of the control beam {control[1]}. "
            f"On the test set that is {difference} BLEU, p = {p_value}.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("outdir", type=Path)
    options = parser.parse_args()
    options.outdir.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in options.work.glob("*/data-bin")):
        corpus = Corpus(folder)
        if corpus.systems:
            (options.outdir / f"{corpus.name}.md").write_text(table(corpus), encoding="utf-8")
            print(f"{corpus.name}\n\n{table(corpus)}")
    print(f"The tables are in {options.outdir}.")


if __name__ == "__main__":
    main()
