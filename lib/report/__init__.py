"""One offline HTML page about a data set and the models trained on it."""
