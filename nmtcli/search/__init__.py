"""Decoding: beam search, greedy search and sampling, and the translator from lines of text to lines of text."""
