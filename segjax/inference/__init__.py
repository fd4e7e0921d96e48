"""Prediction for images of any size, by a run's net or by an exported file."""

from segjax.inference.model import Model

__all__ = ["Model"]
