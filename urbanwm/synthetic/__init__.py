"""The simulated city: a seeded generator with known structural effects."""

from urbanwm.synthetic.dataset import BLOCK_HOURS, REFERENCE_INPUTS, SyntheticUrbanDataset
from urbanwm.synthetic.parameters import PROFILES, CityParameters, Intervention

__all__ = [
    "BLOCK_HOURS",
    "PROFILES",
    "REFERENCE_INPUTS",
    "CityParameters",
    "Intervention",
    "SyntheticUrbanDataset",
]
