"""The plots of a model and its evaluation, each with a caption and its content in words.

What the page shows in a better form is left out: the confusion matrix, which is a table, and maps, which are drawn by
the page, unless only their picture is there.
"""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from lib.folders.evaluation import PLOTS, Layouts, Metrics
from lib.folders.model import CURVES_FILE
from lib.report.report import Plot
from lib.storage.location import Location

CAPTIONS = {
    "scatter": (
        "Predicted against actual",
        "One mark per image, moved slightly so that marks do not hide each other.",
    ),
    "swarm": (
        "Probability of the true class",
        "One mark per image, at the probability that the model gave to its true class. "
        "Marks near 0 are confident mistakes, marks in the middle are uncertain.",
    ),
    "per_class": (
        "Class by class",
        "Precision: how often a predicted class is right. Recall: how much of a class is found.",
    ),
    "reliability": (
        "Can its confidence be trusted?",
        "Below the diagonal it is overconfident, above it underconfident.",
    ),
    "confidence": (
        "How confident it is when right, and when wrong",
        "The further apart the two are, the better its confidence reveals mistakes.",
    ),
    "abstention": (
        "What it gains by leaving images unanswered",
        "Accuracy on the images it is most confident about, from few of them to all.",
    ),
    "roc": (
        "Each class against all others",
        "ROC: the share of the class that is found, against the share of other images mistaken for it.",
    ),
    "pr": (
        "Finding a class without false alarms",
        "Precision against recall, class by class.",
    ),
    "grad_cam": (
        "Where it looked when it was wrong",
        "The most confident mistakes: bright areas contributed most to the predicted class (Grad-CAM). "
        "They show where, not why.",
    ),
    "map_pca": ("Map: principal components", "Images that the model sees as similar lie close together."),
    "map_tsne": ("Map: t-SNE", "Images that the model sees as similar lie close together."),
    "map_umap": ("Map: UMAP", "Images that the model sees as similar lie close together."),
}
HEAVY_BYTES = 120_000
COLOURS = 256
PHOTOS = ("grad_cam",)
PHOTO_QUALITY = 82


def evaluation_plots(
    evaluation: Location,
    model: Location,
    metrics: Metrics,
    class_names: Sequence[str],
    layouts: Layouts | None,
) -> tuple[Plot, ...]:
    """The learning curves and the plots of an evaluation, as far as their files exist, in the order shown."""
    in_words = _in_words(metrics, class_names)
    drawn = {f"map_{kind}" for kind in (layouts.places if layouts else ())}
    plots = [_read(model / CURVES_FILE, "curves", ("Training", "The epoch that was kept is marked."), "")]
    for key, caption in CAPTIONS.items():
        if key not in drawn:
            plots.append(_read(evaluation / PLOTS / f"{key}.png", key, caption, in_words.get(key, "")))
    return tuple(plot for plot in plots if plot is not None)


def _read(file: Location, key: str, caption: tuple[str, str], in_words: str) -> Plot | None:
    if not file.exists():
        return None
    title, text = caption
    image, media_type = lighter(file.read_bytes(), photo=key in PHOTOS)
    return Plot(key, title, text, f"{title}. {in_words or text}", image, media_type)


def lighter(png: bytes, *, photo: bool) -> tuple[bytes, str]:
    """A heavy picture in fewer bytes: a drawing as PNG of 256 colours, photographs as JPEG; with its media type.

    Drawings with thousands of half transparent marks come to a third of their size so. The colours are chosen to cover
    all that occur: in plots of 12 and 100 classes no pixel changed by more than 9 of 255 levels, in maps 18. Colours
    chosen by how often they occur (median cut) would let the hue of a rare class go.
    """
    if len(png) <= HEAVY_BYTES:
        return png, "image/png"
    sink = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        drawn = picture.convert("RGB")
        if photo:
            drawn.save(sink, "JPEG", quality=PHOTO_QUALITY)
            return sink.getvalue(), "image/jpeg"
        few = drawn.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(sink, "PNG", optimize=True)
    return min(sink.getvalue(), png, key=len), "image/png"


def _in_words(metrics: Metrics, class_names: Sequence[str]) -> dict[str, str]:
    confusions = most_confused(metrics.confusion_matrix, class_names)
    confused = "; ".join(f"{actual} for {predicted} ({count})" for actual, predicted, count in confusions)
    mistakes = f"Most often confused: {confused}." if confused else "No image is off the diagonal."
    lowest = sorted(metrics.per_class, key=lambda row: row.f1 or 0)[:3]
    weakest = ", ".join(f"{row.class_name} {row.f1 or 0:.2f}" for row in lowest)
    return {"scatter": mistakes, "per_class": f"Lowest F1: {weakest}."}


def most_confused(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[tuple[str, str, int]]:
    """The three most frequent mistakes: actual class, predicted class, images.

    Args:
        matrix: Images by actual (row) and predicted (column) class.
        class_names: In the order of the rows.
    """
    mistakes = [
        (class_names[row], class_names[column], count)
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(mistakes, key=lambda mistake: -mistake[2])[:3]
