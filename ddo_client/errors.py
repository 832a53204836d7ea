"""What can go wrong between here and the service.

DdoError
├── InvalidJobFile     the job's file is not readable as one
├── ApiError           the service answered with an error (problem+json)
├── Unreachable        the service did not answer, however often it was asked
├── UnexpectedAnswer   the service's answer is not one that this client knows
├── DownloadFailed     the bytes that arrived are not those of the checkpoint
└── MissingLibrary     what was asked for needs a library that is not installed
"""

from collections.abc import Sequence
from dataclasses import dataclass


class DdoError(Exception):
    """Base of what this package raises; its text is meant for people."""


class InvalidJobFile(DdoError):
    """The file does not hold a job."""


class Unreachable(DdoError):
    """No answer from the service."""


class UnexpectedAnswer(DdoError):
    """The service answered something else than this client knows; one of the two is too old."""


class DownloadFailed(DdoError):
    """A download that cannot be used."""


class MissingLibrary(DdoError):
    """A library of an extra is not installed."""


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request."""

    param: str | None
    code: str
    message: str


class ApiError(DdoError):
    """The service refused a request.

    Attributes:
        status: HTTP status.
        code: Stable name of the error.
        detail: What is wrong and what to do.
        param: The field to blame, if one is.
        request_id: To quote when asking the operator.
        errors: All wrong fields.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        param: str | None = None,
        request_id: str | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.param = param
        self.request_id = request_id
        self.errors = tuple(errors)
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        wrong = [error for error in self.errors if error.param or error.message]
        if len(wrong) > 1:
            told = "; ".join(f"{error.param or 'body'}: {error.message}" for error in wrong)
        elif self.param and self.param not in self.detail:
            told = f"{self.param}: {self.detail}"
        else:
            told = self.detail
        asked = f", request {self.request_id}" if self.status >= 500 and self.request_id else ""
        return f"{told} ({self.code}, HTTP {self.status}{asked})"
