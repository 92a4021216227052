"""Training losses: sums and counts, never means; the training loop divides."""
