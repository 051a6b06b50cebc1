"""Errors a user can act on. Each carries its exit code; all of them survive the pickling between Ray processes."""


class TissueError(Exception):
    """An expected failure: reported as one line on stderr, without a traceback."""

    exit_code = 1


class SettingsError(TissueError):
    """A setting is wrong, or names something that is not there."""

    exit_code = 2


class DataError(TissueError):
    """The images cannot be used as they are, whatever the settings."""


class DivergedError(TissueError):
    """The loss was never a number, so that there is no model."""


class MemoryKillsError(TissueError):
    """A task was ended again and again, since the tasks of its machine take more memory than it has."""


class StorageError(TissueError):
    """Storage did not do what was asked of it. Never a verdict on an image."""


class TooManyBadImagesError(TissueError):
    """More images were quarantined than `max_bad_fraction` allows."""

    exit_code = 3


class ImageRefused(Exception):  # noqa: N818 - a verdict on one image, which becomes a row, not a failure
    """One image cannot be decoded into RGB without guessing.

    Attributes:
        code: A reason code, one of `lib.ingest.tiff.decode.REFUSAL_CODES`.
        detail: What was found, for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        """Keep both fields as arguments, so that a pickle round trip restores them."""
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        """The code, then what was found."""
        return f"{self.code}: {self.detail}"


def expected_cause(error: BaseException | None) -> TissueError | None:
    """The error of ours that Ray, on its way between processes, wrapped in its own; None if there is none.

    Ray's wrapper keeps the original as `cause`, and is itself an instance of the original's class. What an error of
    ours was raised from is not looked at: the outermost message names the file.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        wrapped = getattr(error, "cause", None)
        if not isinstance(wrapped, BaseException):
            if isinstance(error, TissueError):
                return error
            wrapped = error.__cause__
        error = wrapped
    return None


def in_one_line(error: BaseException) -> str:
    """What a person is told of a failure: the message of an error of ours, or else the kind of error before it."""
    expected = expected_cause(error)
    if expected is None:
        return one_line(f"{type(error).__name__}: {error}")
    # Ray Data adds advice of its own to the message of what was raised in a task.
    return one_line(str(expected).partition("\nFailed to apply UDF")[0])


def one_line(text: object) -> str:
    """A text, or what an error says, with a single space for every line break and run of spaces."""
    return " ".join(str(text).split())
