"""The completion file of each kind of output folder, and the job that writes it."""

from lib.folders.checks import ChecksRecord
from lib.folders.choice import ChoiceRecord
from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import EvaluationRecord
from lib.folders.export_folder import ExportRecord
from lib.folders.model import ModelRecord
from lib.folders.pipeline_folder import PipelineRecord
from lib.folders.predictions import PredictionsRecord
from lib.folders.record import CompletionRecord
from lib.folders.report_folder import ReportRecord
from lib.folders.sample_folder import SampleRecord

KINDS: tuple[type[CompletionRecord], ...] = (
    SampleRecord,
    DatasetRecord,
    ChoiceRecord,
    ModelRecord,
    ChecksRecord,
    EvaluationRecord,
    PredictionsRecord,
    ExportRecord,
    ReportRecord,
    PipelineRecord,
)
JOBS = {kind.JOB: kind for kind in KINDS}
