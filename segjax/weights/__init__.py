"""Weights from elsewhere: torchvision and Hugging Face state dicts, and segjax runs."""

from segjax.weights.load import Report, load_torch, load_variables
from segjax.weights.pretrained import PRETRAINED, find_pretrained, normalization
from segjax.weights.torch_files import read_tensors

__all__ = [
  "PRETRAINED", "Report", "find_pretrained", "load_torch", "load_variables", "normalization",
  "read_tensors",
]  # fmt: skip
