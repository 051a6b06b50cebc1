"""The cellar: one Ray, its data graphs, progress, logs, counters and the process's environment."""
