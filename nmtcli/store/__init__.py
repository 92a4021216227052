"""Models on disk: their records, their weights, and how to read them. The training package writes them."""
