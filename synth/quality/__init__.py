"""Scores of a generated set as a whole: distances to a real one, fidelity, diversity, copies. Features in, numbers out.

`scores.py` is the one call; `distances.py` and `neighbours.py` hold the formulas, `features.py` the networks to see images with.
"""
