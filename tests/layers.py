"""The layers of the package, which the layer test holds and docs/layout.md shows."""

# from the top down; a module or package may import those in its own row or below it
LAYERS = [
    {"__main__"},
    {"cli", "options"},
    {"commands"},
    {"training"},
    {"losses"},
    {"runtime"},
    {"search"},
    {"scoring"},
    {"store"},
    {"model"},
    {"data"},
    {"console", "config", "knobs", "ranks", "errors", "__init__"},
]
PLANNED = {"runtime"}  # exported graphs: it has a row, but no module yet
