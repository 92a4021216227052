"""Vocabularies for tests: what they are learnt from, and any text that they must give back."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from nmtcli.data.subword import learn

TEXTS = [
    "The old man and the sea, by Hemingway.",
    'She said: "Where is the station?" (It was late.)',
    "Twenty-one cars don't stop at 3.14 km.",
    "Der alte Mann und das Meer – 24,50 €!",
    "今天天气很好，我们去公园吧。",
    "übergrößen kosten mehr als größen",
] * 20
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r▁"), max_size=60)


def learn_one(path: Path, kind: str, texts: list[str] | None = None, vocab_size: int = 420, **more: str) -> None:
    settings: dict[str, Any] = {"normalization": "identity", "character_coverage": 1.0, **more}
    learn(TEXTS if texts is None else texts, path, kind=kind, vocab_size=vocab_size, **settings)
