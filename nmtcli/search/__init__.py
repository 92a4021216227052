"""Decoding: search over step functions, and the translator that turns lines into lines."""
