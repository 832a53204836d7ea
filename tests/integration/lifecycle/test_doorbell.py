"""Brokers that answer, refuse and hang."""

import json
import socket
import time

from pydantic import SecretStr

from service.doorbell import QUEUE, Doorbell


def test_ring_sends_json_with_the_id_alone(service_settings, valkey):
    doorbell = Doorbell(service_settings)

    assert doorbell.ring(["unit_1"])

    with valkey.connect() as client:
        (message,) = client.lrange(QUEUE, 0, -1)
    doorbell.close()
    message = json.loads(message)
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "worker.run_unit"
    assert message["headers"]["argsrepr"] == "['unit_1']"


def _ring_seconds(service_settings, url: str) -> float:
    doorbell = Doorbell(service_settings.model_copy(update={"broker_url": SecretStr(url)}))
    started = time.monotonic()
    assert not doorbell.ring(["unit_1", "unit_2", "unit_3"])
    doorbell.close()
    return time.monotonic() - started


def test_ring_a_dead_broker_returns_at_once(service_settings):
    assert _ring_seconds(service_settings, "redis://127.0.0.1:1/0") < 2


def test_ring_a_hanging_broker_returns_soon(service_settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        assert _ring_seconds(service_settings, f"redis://127.0.0.1:{port}/0") < 5
