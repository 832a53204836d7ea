"""The meter of steps: a fake clock, and this process's memory."""

import subprocess
import sys
from itertools import count

import pytest
import torch

from ddo_engine.performance import StepMeter, peak_resident_bytes


def test_speed_is_images_per_second_of_the_steps_alone():
    ticks = iter([0.0, 2.0, 100.0, 102.0, 500.0, 501.0])
    meter = StepMeter(torch.device("cpu"), clock=lambda: next(ticks))
    for _ in range(2):
        with meter.step_of(32):
            pass
    assert meter.take(step=2, kimg=0.064).images_per_second == 16.0
    with meter.step_of(32):
        pass
    assert meter.take(step=3, kimg=0.096).images_per_second == 32.0


def test_step_that_fails_is_not_counted():
    meter = StepMeter(torch.device("cpu"), clock=count().__next__)
    with pytest.raises(RuntimeError), meter.step_of(32):
        raise RuntimeError
    assert meter.take(step=0, kimg=0).images_per_second == 0


def test_memory_without_a_gpu_is_the_peak_of_the_process():
    block = bytearray(64 << 20)
    event = StepMeter(torch.device("cpu")).take(step=1, kimg=1)
    assert event.memory == "process"
    assert event.peak_memory_bytes > len(block)


def test_peak_of_a_small_process_started_by_a_large_one_is_its_own():
    ballast = b"1" * (1 << 29)
    code = "from ddo_engine.performance import peak_resident_bytes; print(peak_resident_bytes())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(told) < peak_resident_bytes() - len(ballast) // 2
