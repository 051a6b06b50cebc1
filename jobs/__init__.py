"""The commands: one thin file a job, run as `python -m jobs.NAME`."""
