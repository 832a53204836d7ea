"""What a worker process must not load."""

import subprocess
import sys


def test_worker_loads_neither_torch_nor_the_api():
    """Torch in the worker would take a GPU's memory, and seconds at every start."""
    code = "import sys, worker.app; print([m for m in ('torch', 'numpy', 'fastapi') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
