"""A simulated world to measure prompt optimizers on; see README.md in this folder.

`World` has no knowledge of any optimizer; `module` and `resources` make it a program
and endpoints of this library.
"""

from benchmarks.simworld.examples import Example
from benchmarks.simworld.families import FAMILIES, Family
from benchmarks.simworld.modules import (
    MODULES,
    OnePrompt,
    ThreeStages,
    module,
    resources,
)
from benchmarks.simworld.rules import Rule
from benchmarks.simworld.world import Service, Traffic, World

__all__ = [
    "FAMILIES",
    "MODULES",
    "Example",
    "Family",
    "OnePrompt",
    "Rule",
    "Service",
    "ThreeStages",
    "Traffic",
    "World",
    "module",
    "resources",
]
