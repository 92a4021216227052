"""The data pipeline, from raw text to batches of ids. Only batches.py imports torch."""
