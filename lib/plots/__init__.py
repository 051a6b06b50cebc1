"""Pictures of training and evaluation: pure functions from arrays to the bytes of a PNG file.

They import nothing of the other packages, hold no global state (no pyplot figure), and give the same bytes
for the same input. Colours are those of Okabe and Ito, and right and wrong differ in shape too.
"""

from lib.plots.confusion import confusion_matrix
from lib.plots.curves import curves
from lib.plots.proportion import wilson_interval
from lib.plots.quality import per_class_bars, reliability
from lib.plots.scatter import predicted_scatter
from lib.plots.swarm import predicted_swarm

__all__ = [
    "confusion_matrix",
    "curves",
    "per_class_bars",
    "predicted_scatter",
    "predicted_swarm",
    "reliability",
    "wilson_interval",
]
