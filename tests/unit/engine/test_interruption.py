"""Stopping on request."""

import os
import signal

import pytest
from torch import nn, zeros

from ddo_engine.errors import Interrupted
from ddo_engine.interruption import StopRequest


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    request = StopRequest()
    request.install()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_check_without_a_signal_does_nothing(stop):
    stop.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_raises_nothing_until_the_next_check(stop, number):
    os.kill(os.getpid(), number)
    assert stop.requested
    with pytest.raises(Interrupted):
        stop.check()


def test_network_call_inside_the_block_stops_even_when_nested(stop):
    network = nn.Sequential(nn.Linear(2, 2))
    with stop.before_network_calls():
        network(zeros(1, 2))
        stop.requested = True
        with pytest.raises(Interrupted):
            network(zeros(1, 2))


def test_network_call_after_the_block_is_not_stopped(stop):
    stop.requested = True
    network = nn.Linear(2, 2)
    with stop.before_network_calls():
        pass
    network(zeros(1, 2))
