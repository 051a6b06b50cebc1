"""A run folder for TensorBoard's Projector: pure functions from arrays to its files, and a check by TensorBoard itself.

    points = ProjectorPoints(embeddings, labels, predicted, confidence, paths, thumbnails)
    (folder / "projector").write_many(projector_files(points))
    verify_projector(Path(folder.path), "projector", points)      # a folder on this machine
    verify_projector_files(files_read_back, points)               # one in storage

At most `MOST_POINTS` images: `choose_points(labels, ids)` gives the indices of a fair sample. Thumbnails may be None.
It imports nothing of the other rooms but `errors` and `plots`, and neither Keras nor TensorFlow.
"""

from lib.projector.points import MOST_POINTS, ProjectorPoints, choose_points, unit_length
from lib.projector.run_folder import projector_files
from lib.projector.verification import verify_projector, verify_projector_files

__all__ = [
    "MOST_POINTS",
    "ProjectorPoints",
    "choose_points",
    "projector_files",
    "unit_length",
    "verify_projector",
    "verify_projector_files",
]
