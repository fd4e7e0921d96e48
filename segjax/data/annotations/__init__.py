"""Labels of annotation tools, drawn as masks: COCO, YOLO, LabelMe, CVAT, Label Studio.

A reader per tool makes `shapes.Annotations` of its files, `drawing` draws an image's shapes as a
mask, and `convert` writes the folder that the source "folder" reads.
"""
