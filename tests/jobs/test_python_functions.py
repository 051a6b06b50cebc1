"""The pipeline from Python: the same folder as the command's, and tables with a row for what it holds."""

import lib
from tests.fakes.chain import Chain

SETTINGS = {
    "image_size": 48,
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 0.003,
    "validation_fraction": 0.1,
    "max_bad_fraction": 0.1,
    "images_per_shard": 8,
    "layout": "folder",
}


def test_a_run_from_python_finds_what_the_command_has_done_and_returns_its_tables(chain: Chain) -> None:
    before = chain.file_times("dataset", "models", "evaluations")
    result = lib.run(source=str(chain.source), output=str(chain.output), models=chain.models, **SETTINGS)
    assert chain.file_times("dataset", "models", "evaluations") == before
    summary = chain.result.summary
    assert result.manifest["verdict"].value_counts().to_dict() == {"accepted": 37, "quarantined": 2, "excluded": 2}
    assert result.measures["accuracy"].to_dict() == summary["models"]
    assert result.history.groupby("model")["epoch"].max().to_dict()["cnn"] == 8
    assert result.predictions.groupby("model").size().to_dict() == dict.fromkeys(summary["models"], 8)
    cnn = result.evaluations["cnn"]
    assert int(cnn.confusion_matrix.to_numpy().sum()) == len(cnn.predictions) == 8
    assert cnn.per_class.loc["liver", "support"] == 4
    shown = result._repr_html_()
    assert shown.startswith(f"<p><strong>{result.verdict}")
    assert shown.count("<img") == 2
    assert result.report == f"{chain.output}/report/report.html"
