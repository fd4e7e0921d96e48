"""Prediction for images of any size, by a run's net or by an exported file."""

from segjax.inference.model import Model, View
from segjax.inference.predictor import Prediction, Predictor

__all__ = ["Model", "Prediction", "Predictor", "View"]
