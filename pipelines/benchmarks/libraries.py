"""torchvision, timm and transformers, whose networks and transforms edgeres is held against.

Where torchvision was built for another torch than the one installed, `operators` declares what its import asks for.
"""

import operators  # noqa: F401  (before torchvision)
import timm
import timm.data
import timm.models
import torchvision
import torchvision.datasets.folder
import torchvision.transforms
import transformers

__all__ = ["timm", "torchvision", "transformers"]
