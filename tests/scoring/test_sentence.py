"""Sentence BLEU equals sacreBLEU's with add-1 smoothing."""

from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import BLEU

from nmtcli.scoring.sentence import sentence_bleu

TOKENS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=12)


@given(TOKENS, TOKENS.filter(bool))
def test_sentence_bleu_is_sacrebleus_with_add_k(hypothesis: list[str], reference: list[str]) -> None:
    metric = BLEU(smooth_method="add-k", smooth_value=1, effective_order=False, tokenize="none", force=True)
    theirs = metric.sentence_score(" ".join(hypothesis), [" ".join(reference)]).score / 100
    assert abs(sentence_bleu(hypothesis, reference) - theirs) < 1e-9


@given(TOKENS.filter(bool))
def test_the_reference_itself_is_worth_1(reference: list[str]) -> None:
    assert abs(sentence_bleu(reference, reference) - 1) < 1e-12
