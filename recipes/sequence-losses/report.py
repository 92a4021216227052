"""Make the tables of a grid that run.sh has trained.

    python report.py WORK OUTDIR

reads WORK/<corpus>/<loss>-<seed>/ (<split>.<search>.<target>, <split>.<search>.json; a search is <beam>-<length
penalty>, a loss is <loss> or <loss>@<learning rate>) and writes OUTDIR/<corpus>.md, with two tables. In the first, all
losses have the same length penalty; in the second, each has the penalty with the highest validation BLEU.

A table has BLEU and chrF on validation and test set for each loss and beam, and a paired bootstrap against the control
with the same beam. The control is cross-entropy with the learning rate that has the highest validation BLEU. Below the
table stand the loss and the beam with the highest validation BLEU, and their difference in test BLEU from the control
with its own best beam. Unfinished runs are left out, and a loss with less than half as many seeds as another is not
chosen.
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
SEARCHES = {"1": ("1-1.0",), "5": ("5-1.0", "5-1.5", "5-2.0")}  # by beam; the first has the default penalty
System = tuple[str, str]  # loss and search


class Corpus:
    """The finished runs of one corpus."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        _, _, target = folder.name.rsplit("-", 2)
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*/done")):
            found.setdefault(path.parent.name.rpartition("-")[0], []).append(path.parent)
        self.runs = {loss: found[loss] for loss in sorted(found, key=lambda loss: LOSSES.index(loss.partition("@")[0]))}
        self.statistics: dict[str, dict[System, Array]] = {}
        for split in ("valid", "test"):
            references = lines_of(folder / f"{split}.{target}")
            self.statistics[split] = {
                (loss, search): np.stack(
                    [
                        sentence_statistics(
                            lines_of(run / f"{split}.{search}.{target}"), references, tokenizer_for(target)
                        )
                        for run in self.runs[loss]
                    ]
                )
                for loss in self.runs
                for searches in SEARCHES.values()
                for search in searches
                if (self.runs[loss][0] / f"{split}.{search}.{target}").exists()  # --loss beam has one penalty only
            }

    def systems(self, *, one_penalty: bool) -> list[System]:
        """List each loss with each beam, with the first length penalty or the best one on the validation set."""
        valid = self.statistics["valid"]
        return [
            max(
                ((loss, search) for search in searches[: 1 if one_penalty else None] if (loss, search) in valid),
                key=lambda system: mean_bleu(valid[system]),
            )
            for loss in self.runs
            for searches in SEARCHES.values()
        ]

    def is_control(self, system: System) -> bool:
        """Return True if the loss is cross-entropy, with any learning rate."""
        return system[0].partition("@")[0] == CONTROL

    def scores(self, split: str, system: System, metric: str) -> list[float]:
        """Return the score of each seed."""
        loss, search = system
        return [self._score(run, split, search)[metric]["score"] for run in self.runs[loss]]

    def signature(self, metric: str) -> str:
        """Return sacreBLEU's signature."""
        run = next(runs[0] for runs in self.runs.values())
        return str(self._score(run, "test", "1-1.0")[metric]["signature"])

    def best(self, systems: list[System]) -> System:
        """Choose the system with the highest mean validation BLEU, among those with at least half the most seeds."""
        most = max(len(self.runs[loss]) for loss, _ in systems)
        known = [system for system in systems if 2 * len(self.runs[system[0]]) >= most]
        return max(known, key=lambda system: mean_bleu(self.statistics["valid"][system]))

    @staticmethod
    def _score(run: Path, split: str, search: str) -> dict[str, dict[str, float]]:
        report = json.loads((run / f"{split}.{search}.json").read_text(encoding="utf-8"))
        scores: dict[str, dict[str, float]] = report["systems"][0]["scores"]
        return scores


def against(corpus: Corpus, system: System, control: System) -> tuple[str, str]:
    """Format the difference in test BLEU, and its p-value."""
    ours, theirs = (corpus.statistics["test"][one] for one in (system, control))
    return f"{mean_bleu(ours) - mean_bleu(theirs):+.2f}", f"{paired_bootstrap(ours, theirs):.3f}"


def table(corpus: Corpus, *, one_penalty: bool) -> list[str]:
    """Format a Markdown table of one corpus, and its conclusion."""
    systems = corpus.systems(one_penalty=one_penalty)
    controls = [system for system in systems if corpus.is_control(system)]
    control_of = {
        beam: corpus.best([(loss, search) for loss, search in controls if search in searches])
        for beam, searches in SEARCHES.items()
        if controls
    }
    lines = [
        "| loss | beam | length penalty | seeds | valid BLEU | valid chrF2 | test BLEU | test chrF2 "
        "| against control, same beam | p |",
        "|" + "---|" * 10,
    ]
    for system in systems:
        loss, (beam, _, penalty) = system[0], system[1].partition("-")
        control = control_of.get(beam, system)
        difference, p_value = against(corpus, system, control) if system != control else ("", "")
        cells = [
            loss,
            beam,
            penalty if beam != "1" else "",
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
    others = [system for system in systems if not corpus.is_control(system)]
    if others and controls:
        chosen, control = corpus.best(others), corpus.best(controls)
        difference, p_value = against(corpus, chosen, control)
        lines += [
            "",
            f"The validation set chooses {chosen[0]} with beam and penalty {chosen[1]}; for the control it chooses "
            f"{control[0]} with {control[1]}. On the test set the difference is {difference} BLEU (p = {p_value}).",
        ]
    return lines


def report(corpus: Corpus) -> str:
    """Format both tables, and the signatures of their scores."""
    lines = ["With a length penalty of 1 for all:", "", *table(corpus, one_penalty=True), ""]
    lines += ["With the length penalty that the validation set chooses:", "", *table(corpus, one_penalty=False), ""]
    return (
        "\n".join([*lines, ", ".join(f"{metric}: `{corpus.signature(metric)}`" for metric in ("BLEU", "chrF2"))]) + "\n"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("outdir", type=Path)
    options = parser.parse_args()
    options.outdir.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in options.work.glob("*/data-bin")):
        corpus = Corpus(folder)
        if corpus.runs:
            text = report(corpus)
            (options.outdir / f"{corpus.name}.md").write_text(text, encoding="utf-8")
            print(f"{corpus.name}\n\n{text}")
    print(f"The tables are in {options.outdir}.")


if __name__ == "__main__":
    main()
