"""segjax: semantic segmentation and its experiments in JAX."""

__version__ = "0.1.0"
