"""What this package is called: `lib` in its repository, `tissue` where a wheel of it is installed (see `setup.py`)."""

VERSION = "0.1.0"
NAME = __name__.partition(".")[0]
"""Of the package as it is imported, and of its loggers."""
INSTALLED_NAME = "tissue"


def command(job: str) -> str:
    """What a person types to run a job here."""
    return f"{INSTALLED_NAME} {job}" if NAME == INSTALLED_NAME else f"python -m jobs.{job}"
