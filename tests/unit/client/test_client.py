"""The client against answers made up for the purpose: what it repeats, what it tells, what it never sends."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ddo_client import ApiError, Client, DdoError, UnexpectedAnswer, Unreachable
from tests.unit.client.test_decoding import JOB

Answer = httpx.Response | Exception


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client made, which it does not really make."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


class _Service:
    """Gives the answers in turn and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx.Request] = []
        self._answers: Iterator[Answer] = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> Client:
        return Client("http://service", "ddo_key", transport=httpx.MockTransport(self))


def _job(**headers: str) -> httpx.Response:
    return httpx.Response(200, json=JOB, headers=headers)


def _problem(status: int, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    problem = {"status": status, "code": "some_code", "detail": "Do this instead.", "request_id": "req_1", **members}
    return httpx.Response(status, json=problem, headers={"Content-Type": "application/problem+json", **(headers or {})})


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(500),
        httpx.Response(502, text="bad gateway"),
        _problem(503),
        _problem(429),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
    ],
)
def test_submit_after_trouble_is_repeated_with_the_same_key(trouble: Answer, slept: list[float]) -> None:
    service = _Service(trouble, trouble, _job())
    with service.client() as client:
        assert client.submit({"rounds": 1}).id == "job_1"
    keys = [request.headers["Idempotency-Key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) >= 32
    assert len(slept) == 2


def test_submit_twice_is_two_jobs_unless_the_key_is_given() -> None:
    service = _Service(*[_job() for _ in range(4)])
    with service.client() as client:
        for key in (None, None, "mine", "mine"):
            client.submit({}, idempotency_key=key)
    keys = [request.headers["Idempotency-Key"] for request in service.requests]
    assert keys[0] != keys[1]
    assert keys[2:] == ["mine", "mine"]


def test_request_told_to_wait_waits_as_long_as_told(slept: list[float]) -> None:
    service = _Service(_problem(429, {"Retry-After": "7"}), _problem(503, {"Retry-After": "9999"}), _job())
    with service.client() as client:
        client.job("job_1")
    assert slept == [7.0, 60.0]


def test_request_without_any_answer_is_unreachable(slept: list[float]) -> None:
    service = _Service(*[httpx.ConnectError("refused")] * 6)
    with service.client() as client, pytest.raises(Unreachable, match="http://service: refused"):
        client.job("job_1")
    assert len(service.requests) == 6


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_request_refused_is_not_repeated(status: int) -> None:
    service = _Service(_problem(status))
    with service.client() as client, pytest.raises(ApiError) as refused:
        client.submit({})
    assert (refused.value.status, refused.value.code, refused.value.request_id) == (status, "some_code", "req_1")


def test_error_of_one_field_reads_as_one_line() -> None:
    service = _Service(_problem(422, param="grid.beta[0]", detail="must be above 0"))
    with service.client() as client, pytest.raises(ApiError) as refused:
        client.submit({})
    assert str(refused.value) == "grid.beta[0]: must be above 0 (some_code, HTTP 422)"


def test_error_of_several_fields_names_them_all() -> None:
    errors = [
        {"param": "rounds", "code": "missing", "message": "give it"},
        {"param": None, "code": "x", "message": "y"},
    ]
    service = _Service(_problem(422, param="rounds", errors=errors))
    with service.client() as client, pytest.raises(ApiError, match=r"^rounds: give it; body: y \(") as refused:
        client.submit({})
    assert refused.value.errors[0].param == "rounds"


def test_error_of_a_broken_service_names_the_request(slept: list[float]) -> None:
    service = _Service(*[_problem(500)] * 6)
    with service.client() as client, pytest.raises(ApiError, match="request req_1"):
        client.job("job_1")


def test_error_that_is_no_problem_json_is_still_told() -> None:
    service = _Service(httpx.Response(404, text="<html>nginx</html>"))
    with service.client() as client, pytest.raises(ApiError, match="404 Not Found"):
        client.job("job_1")


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[1])])
def test_answer_of_something_else_than_the_service_says_so(answer: httpx.Response) -> None:
    with _Service(answer).client() as client, pytest.raises(UnexpectedAnswer, match="is it the service"):
        client.job("job_1")


@pytest.mark.parametrize("identifier", ["", "../jobs", "a/b", "a?b", "a%2fb", "…"])
def test_request_for_something_that_is_no_id_is_not_sent(identifier: str) -> None:
    service = _Service()
    with service.client() as client, pytest.raises(DdoError, match="is no id"):
        client.job(identifier)
    assert not service.requests


def test_submit_of_nan_is_not_sent() -> None:
    service = _Service()
    with service.client() as client, pytest.raises(DdoError, match="NaN"):
        client.submit({"grid": {"alpha": [float("nan")]}})
    assert not service.requests


def test_requests_carry_the_key_and_their_representation_does_not() -> None:
    service = _Service(_job())
    with service.client() as client:
        client.job("job_1")
        assert "ddo_key" not in repr(client)
    assert service.requests[0].headers["Authorization"] == "Bearer ddo_key"


def _page(ids: list[str], next_after: str | None) -> httpx.Response:
    jobs = [{**JOB, "id": each} for each in ids]
    return httpx.Response(200, json={"data": jobs, "has_more": next_after is not None, "next_after": next_after})


def test_jobs_are_read_page_by_page() -> None:
    service = _Service(_page(["a", "b"], "b"), _page(["c"], None))
    with service.client() as client:
        assert [job.id for job in client.jobs(statuses=["running", "failed"])] == ["a", "b", "c"]
    assert dict(service.requests[1].url.params)["after"] == "b"
    assert service.requests[0].url.params.get_list("status") == ["running", "failed"]


def test_jobs_up_to_a_limit_ask_for_no_more() -> None:
    service = _Service(_page(["a", "b"], "b"))
    with service.client() as client:
        assert [job.id for job in client.jobs(limit=2)] == ["a", "b"]
    assert len(service.requests) == 1


def test_metrics_are_read_to_the_end() -> None:
    def page(kimg: float, following: float | None) -> httpx.Response:
        point = {"step": 1, "kimg": kimg, "values": {"loss": 1.0}}
        more = {"has_more": following is not None, "next_since_kimg": following}
        return httpx.Response(200, json={"training": [point], "evaluations": [], **more})

    service = _Service(page(1.0, 1.0), page(2.0, None))
    with service.client() as client:
        assert [point.kimg for point in client.metrics("job_1", 1, 0).training] == [1.0, 2.0]
    assert service.requests[1].url.params["since_kimg"] == "1.0"


def test_follow_reads_events_until_the_job_has_ended(slept: list[float]) -> None:
    def events(*ids: int) -> httpx.Response:
        data = [{"id": i, "type": "x", "unit_id": None, "data": {}, "created_at": "2026-01-01T00:00:00Z"} for i in ids]
        return httpx.Response(200, json={"data": data, "has_more": False, "next_after": None})

    ended = httpx.Response(200, json={**JOB, "status": "succeeded"})
    service = _Service(_job(), events(1, 2), _job(), events(), ended, events(3))
    with service.client() as client:
        assert [event.id for event in client.follow("job_1")] == [1, 2, 3]
    assert [request.url.params["after"] for request in service.requests[1::2]] == ["0", "2", "2"]


@pytest.mark.parametrize("missing", ["DDO_API_URL", "DDO_API_KEY"])
def test_client_without_its_environment_says_what_to_set(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDO_API_URL", "http://service")
    monkeypatch.setenv("DDO_API_KEY", "ddo_key")
    monkeypatch.delenv(missing)
    with pytest.raises(DdoError, match=f"set {missing}:"):
        Client.from_environment()
