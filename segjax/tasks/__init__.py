"""What a batch means: one file a task, with its loss, statistics, summary and pictures."""

from segjax.tasks.segmentation import Segmentation

TASKS = {"segmentation": Segmentation}
