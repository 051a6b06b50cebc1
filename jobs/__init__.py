"""The commands: one thin file a job, run as `python -m jobs.NAME`."""

from lib.environment import prepare_environment

prepare_environment()  # before a job imports Ray, which reads its token mode only then
