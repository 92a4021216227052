"""Scores for translations: BLEU, chrF2 and TER with their signatures, and log-probabilities from forced decoding."""
