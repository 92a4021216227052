"""Scores of translations: BLEU, chrF2 and TER with their signatures, and log-probabilities by forced decoding."""
