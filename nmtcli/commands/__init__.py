"""The verbs. Each reads like a recipe, top to bottom; verbs never import verbs."""
