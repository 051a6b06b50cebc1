"""Whether the data can be trusted: near duplicates, a colour baseline, labels that are probably wrong."""
