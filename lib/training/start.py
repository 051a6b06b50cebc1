"""Starts a training: of one model, or of the trials of a sweep."""

from lib.config.fitting import TrainConfig
from lib.folders.model import ModelRecord
from lib.training.trainer import train_model


def train(config: TrainConfig) -> ModelRecord:
    """Train what the settings say, unless it is complete; see `train_model` and `search_model` for what it raises."""
    if config.sweep is None:
        return train_model(config)
    from lib.training.search.tune import search_model  # Ray Tune takes a second to import

    return search_model(config)
