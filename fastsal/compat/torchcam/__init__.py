"""torchcam's names: replace ``torchcam`` by ``fastsal.compat.torchcam`` in the imports.

>>> from fastsal.compat.torchcam.methods import LayerCAM
>>> with LayerCAM(model, ["layer3", "layer4"]) as extractor:
...     scores = model(images)
...     maps = extractor(scores.argmax(1).tolist(), scores)  # [N, h, w] for each layer

As in torchcam, an extractor hooks the model until it is left (or ``remove_hooks()`` is called), and reads what the
user's own passes leave at the layers.
"""

from fastsal.compat.torchcam import methods, metrics, utils

__all__ = ["methods", "metrics", "utils"]
