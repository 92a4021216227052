"""Training losses; each returns sums and a count, and the training loop divides to obtain the mean."""
