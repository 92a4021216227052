"""Scores of translations: text metrics with signatures, and forced decoding."""
