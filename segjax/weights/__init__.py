"""Weights in files: state dicts of torchvision and Hugging Face, and our nets with their config.

>>> import tempfile
>>> import numpy as np
>>> variables = dict(params=dict(head=dict(kernel=np.ones((1, 1, 8, 2), np.float32))))
>>> with tempfile.TemporaryDirectory() as folder:
...   file = f"{folder}/net.safetensors"
...   save(variables, file, dict(name="unet", num_classes=2), classes=["a", "b"])
...   loaded, net_config, about = load(file)
>>> loaded["params"]["head"]["kernel"].shape, net_config["name"], about
((1, 1, 8, 2), 'unet', {'classes': ['a', 'b']})
"""

from segjax.weights.load import Report, load_torch, load_variables
from segjax.weights.pretrained import PRETRAINED, find_pretrained, normalization
from segjax.weights.saved import is_saved, load, save
from segjax.weights.torch_files import read_tensors

__all__ = [
  "PRETRAINED", "Report", "find_pretrained", "is_saved", "load", "load_torch", "load_variables",
  "normalization", "read_tensors", "save",
]  # fmt: skip
