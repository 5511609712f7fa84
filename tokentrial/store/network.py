"""The network: which errors are its own, patience with it, and the Hugging Face Hub, its client and its refusals."""

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.disk import NO_ROOM

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_WAIT_S = 30.0  # without a byte from the Hub
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)

T = TypeVar("T")


def with_retries(
    work: Callable[[], T],
    path: str,
    what: str | None = None,
    advice: str = "; check corpus.source, or give a copy of your own: parquet:FOLDER",
    waits_s: Sequence[float] | None = None,
    as_they_are: Collection[int] = (),
) -> T:
    """The result of `work` on a path, tried again after each of these waits while disk or network fail; by default at
    once on a local path. A missing file, a refusal or a full disk is not retried. Raises TrialError that says
    `what` happened and gives `advice`; errors of the numbers `as_they_are`, and what is no matter of disk or network,
    are raised as they are."""
    is_remote = "://" in path
    for wait in (*((_WAITS_S if is_remote else ()) if waits_s is None else waits_s), None):
        try:
            return work()
        except Exception as error:
            number = getattr(error, "errno", None)
            if not is_transient_io(error) or is_data_error(error) or number in as_they_are:
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            if wait is None or _is_final(error):
                ending = advice if is_remote or waits_s is not None else ""
                raise TrialError(f"{what or f'{path}: cannot be read'}: {message}{ending}") from error
            print(f"{path}: {message}; trying again in {wait:g} s", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError


def _is_final(error: Exception) -> bool:
    """Whether no patience helps."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = status is not None and 400 <= status < 500 and status not in (408, 429)
    absent = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    return refused or absent or getattr(error, "errno", None) in NO_ROOM


def is_transient_io(error: Exception) -> bool:
    """Whether an error is of a disk or a network client. httpx, aiohttp and botocore have errors of their own; where a
    proxy answers with a page of its own, the Hub's client finds no JSON."""
    clients = ("httpx", "httpx2", "aiohttp", "botocore", "requests", "urllib3")
    return isinstance(error, OSError | json.JSONDecodeError) or any(
        kind.__module__.split(".")[0] in clients for kind in type(error).__mro__
    )


def is_data_error(error: Exception) -> bool:
    """Whether an OSError is of what a file holds, and no matter of disk or network: pyarrow and bz2 raise it themselves
    then, without a number."""
    if type(error) is not OSError or error.errno is not None:
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    source = trace.tb_frame.f_code.co_filename if trace is not None else ""
    return "pyarrow" in source or source.endswith(("bz2.py", "_compression.py", "_streams.py"))


def hub_client() -> "HfApi":
    """The Hub's HfApi, which gives up a server that says nothing: by its own default it would wait for ever."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def bounded() -> Any:
        client = default_client_factory()
        client.timeout = HUB_WAIT_S
        return client

    set_client_factory(bounded)
    return HfApi()


@contextmanager
def hub_api(name: str, verb: str) -> "Iterator[HfApi]":
    """Yield the Hub's client with a token; what the Hub refuses or fails at within the block is a TrialError."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise SettingsError(f"{name!r}: not a name on the Hub; expected OWNER/MODEL, such as me/pilot-seed1") from None
    api = hub_client()
    if verb == "push" and get_token() is None:
        raise TrialError(f"{name}: no token for the Hub; set HF_TOKEN, or log in with `hf auth login`")
    try:
        yield api
    except (KeyError, TypeError, ValueError):
        raise TrialError(f"{name}: not {verb}ed: the reply is not the Hub's; check the network's proxy") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        # a download that fails says so as a file that is not found, with the Hub's answer as its cause
        cause: BaseException = error
        if not isinstance(error, HfHubHTTPError) and isinstance(error.__cause__, HTTPError):
            cause = error.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # of this machine's disk
        raise TrialError(" ".join(f"{name}: not {verb}ed: {_hub_advice(status, cause)}".split())) from None


_ADVICE: dict[int | None, str] = {
    401: "the Hub refused the token (401); set HF_TOKEN to a token that may write, or check the name",
    403: "the Hub refuses this token here (403); give it the right to write, or choose a name of your own",
    404: "the Hub knows no such model (404), or it is private; check the name and HF_TOKEN",
    429: "the Hub's rate limit is reached (429); run the same command again in a few minutes",
}


def _hub_advice(status: int | None, error: BaseException) -> str:
    if status in _ADVICE:
        return _ADVICE[status]
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__}: {error}); run the same command again"
    return f"the Hub answered {status}; run the same command again later"
