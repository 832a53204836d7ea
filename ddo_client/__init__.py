"""Python client and ``ddo`` command line of the DDO finetuning service."""

from ddo_client.client import Client
from ddo_client.errors import ApiError, DdoError, DownloadFailed, InvalidJobFile, UnexpectedAnswer, Unreachable

__all__ = ["ApiError", "Client", "DdoError", "DownloadFailed", "InvalidJobFile", "UnexpectedAnswer", "Unreachable"]
