"""Drawn scenes with exact labels: a road seen from a car, a suburb seen from above."""
