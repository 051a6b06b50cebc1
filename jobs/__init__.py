"""The commands: one thin file a job, run as `python -m jobs.NAME`."""

from lib.runtime.environment import prepare_environment

prepare_environment()  # before a job imports Ray, which reads its token mode only then
