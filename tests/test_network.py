"""The network: whose errors are waited for, and which are told at once."""

import pytest

from tokentrial.errors import SettingsError, TrialError
from tokentrial.store.network import with_retries

pytestmark = pytest.mark.usefixtures("slept")


def client_error(module, status=None):
    kind = type("ClientError", (Exception,), {"__module__": module})
    error = kind("the client's own words")
    if status is not None:
        error.response = type("Response", (), {"status_code": status})()
    return error


def failing_twice(error):
    failures = [error, error]

    def work():
        if failures:
            raise failures.pop()
        return "worked"

    return work


@pytest.mark.parametrize(
    "error",
    [
        *(
            client_error(f"{name}._exceptions")
            for name in ("httpx", "aiohttp.client", "botocore", "urllib3", "requests")
        ),
        *(client_error("httpx", status) for status in (408, 429, 500, 503)),
        *(OSError("read timed out"), ConnectionResetError("reset"), TimeoutError("timed out")),
    ],
    ids=lambda error: f"{type(error).__module__} {getattr(getattr(error, 'response', None), 'status_code', '')}",
)
def test_a_network_clients_error_is_waited_for(slept, error):
    assert with_retries(failing_twice(error), "s3://bucket/a.parquet") == "worked"
    assert slept == [1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 416])
def test_a_refusal_is_an_error_at_once(slept, status):
    with pytest.raises(TrialError, match=r"^hf://datasets/o/n: cannot be read: the client's own words; check"):
        with_retries(failing_twice(client_error("httpx", status)), "hf://datasets/o/n")
    assert slept == []


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), SettingsError("ours")])
def test_what_is_no_ones_network_is_raised_as_it_is(slept, error):
    with pytest.raises(type(error), match="ours"):
        with_retries(failing_twice(error), "s3://bucket/a.parquet")
    assert slept == []
