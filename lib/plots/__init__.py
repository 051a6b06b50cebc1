"""Pictures of training and evaluation: pure functions from arrays to the bytes of a PNG and an SVG file.

They import nothing of the other packages, hold no global state (no pyplot figure), and give the same bytes
for the same input. Colours are those of Okabe and Ito, and right and wrong differ in shape too.
"""

from lib.plots.canvas import Picture
from lib.plots.confusion import confusion_matrix
from lib.plots.curves import curves
from lib.plots.embedding import embedding_map
from lib.plots.heatmap_sheet import grad_cam_sheet
from lib.plots.letters import Lettering, lettering
from lib.plots.one_vs_rest import pr_curves, roc_curves
from lib.plots.per_class import per_class_bars
from lib.plots.proportion import wilson_interval
from lib.plots.reliability_diagram import confidence_histogram, reliability
from lib.plots.risk_coverage import abstention_curve
from lib.plots.scatter import predicted_scatter
from lib.plots.swarm import predicted_swarm

__all__ = [
    "Lettering",
    "Picture",
    "abstention_curve",
    "confidence_histogram",
    "confusion_matrix",
    "curves",
    "embedding_map",
    "grad_cam_sheet",
    "lettering",
    "per_class_bars",
    "pr_curves",
    "predicted_scatter",
    "predicted_swarm",
    "reliability",
    "roc_curves",
    "wilson_interval",
]
