"""Training: the loop, updates, schedule, validation, checkpoints and distributed ranks."""
