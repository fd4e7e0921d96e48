"""What a batch means: one file a task, with its loss, statistics, summary and pictures."""

from segjax.tasks.classification import Classification
from segjax.tasks.segmentation import Segmentation

TASKS = {"classification": Classification, "segmentation": Segmentation}
