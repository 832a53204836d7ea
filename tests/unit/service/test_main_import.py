"""What importing the API needs: no settings, no torch."""

import subprocess
import sys
from pathlib import Path


def test_import_of_service_main_needs_no_environment_and_no_torch() -> None:
    code = "import sys, service.main; print([name for name in ('torch', 'numpy', 'worker') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
