"""The commands of `nmt`. Each can be read from top to bottom like a recipe, and imports no other command."""
