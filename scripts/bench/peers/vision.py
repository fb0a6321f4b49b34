"""Imports torchvision, whatever it was built for; first of all, since torchmetrics imports it too.

A torchvision built for CUDA beside a torch that is not cannot load its compiled operators, and its import ends with
"operator torchvision::nms does not exist": nobody has declared two of them, which no data set and no transform needs.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    LIBRARY = torch.library.Library("torchvision", "DEF")  # kept: collected, it would take its declarations along
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
