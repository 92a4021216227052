"""The commands. Each reads like a recipe, top to bottom; commands never import commands."""
