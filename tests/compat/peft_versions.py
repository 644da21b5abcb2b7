"""Runs the adapters' tests beside another version of PEFT, in a virtual environment that is thrown away.

    python tests/compat/peft_versions.py peft==0.20.0 torchao==0.17.0  # PEFT 0.20 cannot import torchao 0.18
    python tests/compat/peft_versions.py peft==0.21.2 transformers==5.24.0

Everything but the packages named comes from the environment of this interpreter. CI does not run it: run it before a
release, and before the ceiling of `peft` in pyproject.toml moves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
TESTS = [
    "tests/adapters/test_laws.py",
    "tests/adapters/test_adapter_import.py",
    "tests/adapters/host/test_internals.py",
    "tests/adapters/host/test_saving.py",
    "tests/adapters/deep_lora/test_callback.py",
    "tests/adapters/deep_lora/test_callback_trl.py",
    "tests/test_registration.py",
]
# PEFT 0.20 says so of every model without a folder, when it saves an adapter.
IGNORED = "ignore:Could not find a config file:UserWarning"


def environment(folder: Path, requirements: list[str]) -> Path:
    """The interpreter of a new virtual environment: these packages before those of the running interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--ignore-installed", *requirements], check=True)
    return python


def main(requirements: list[str]) -> int:
    if not requirements:
        sys.exit(__doc__)
    with TemporaryDirectory() as folder:
        python = environment(Path(folder), requirements)
        versions = "import peft, transformers; print('peft', peft.__version__, 'transformers', transformers.__version__)"
        variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        for arguments in (
            ["-c", versions],
            ["-m", "pytest", "-p", "no:cacheprovider", "-W", IGNORED, *TESTS],
        ):
            code = subprocess.run([python, *arguments], cwd=ROOT, env=variables).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
