"""Measurements of speed and cost: of a step, a whole training, the input pipeline, a net."""
