"""A model on disk: its record, its weights, and how they are read. Writing a run is the training package's."""
