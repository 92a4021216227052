"""Training losses, as sums and counts rather than means; the training loop divides."""
