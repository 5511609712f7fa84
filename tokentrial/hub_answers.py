"""The Hub's client, and what is said where the Hub refuses or fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokentrial.corpus.sources import hub_client
from tokentrial.errors import SettingsError, TrialError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@contextmanager
def answered(name: str, verb: str) -> "Iterator[HfApi]":
    """Yield the Hub's client with a token; what the Hub refuses or fails at within the block is a TrialError."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise SettingsError(f"{name!r}: no name on the Hub; expected OWNER/MODEL, such as me/pilot-seed1") from None
    api: HfApi = hub_client()
    if verb == "push" and get_token() is None:
        raise TrialError(f"{name}: no token for the Hub; set HF_TOKEN, or log in with `hf auth login`")
    try:
        yield api
    except (KeyError, TypeError, ValueError):
        raise TrialError(f"{name}: not {verb}ed: what answers is not the Hub; check the network's proxy") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        # a download that fails says so as a file that is not found, with the Hub's answer as its cause
        answered = isinstance(error, HfHubHTTPError)
        cause = error if answered or not isinstance(error.__cause__, HTTPError) else error.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # of this machine's disk
        raise TrialError(" ".join(f"{name}: not {verb}ed: {_told(status, cause)}".split())) from None


_ADVICE: dict[int | None, str] = {
    401: "the Hub refused the token (401); set HF_TOKEN to a token that may write, or check the name",
    403: "the Hub refuses this token here (403); give it the right to write, or choose a name of your own",
    404: "the Hub knows no such model (404), or it is private; check the name and HF_TOKEN",
    429: "the Hub asks to come back later (429); run the same command again in some minutes",
}


def _told(status: int | None, error: BaseException) -> str:
    if status in _ADVICE:
        return _ADVICE[status]
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__}: {error}); run the same command again"
    return f"the Hub answered {status}; run the same command again later"
