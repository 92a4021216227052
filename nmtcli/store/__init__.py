"""Models on disk: the format of records and weights, and how to read them. The training package writes models."""
