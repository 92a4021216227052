"""The way of the data, from raw text to batches of ids. Only batches.py imports torch."""
