"""Install exactly requirements.lock into `.venv`. Needs only Python; two can run at the same time."""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
INPUTS = ("requirements.lock", "pyproject.toml")


def main() -> int:
    if sys.version_info < (3, 11):
        sys.exit(f"Parley needs Python 3.11 or later, this is {sys.version.split()[0]}: use make PYTHON=python3.11 …")
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()
    wanted += f" {sys.version_info.major}.{sys.version_info.minor} {ROOT}"
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not STAMP.exists() or STAMP.read_text() != wanted:
            install()
            STAMP.write_text(wanted)
    return 0


def install() -> None:
    print("Installing into .venv (once) …", file=sys.stderr, flush=True)
    venv.EnvBuilder(clear=True, with_pip=True).create(VENV)
    run("--require-hashes", "--requirement", "requirements.lock")
    run("--no-deps", "--no-build-isolation", "--editable", ".")


def run(*arguments: str) -> None:
    command = [
        str(VENV / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *arguments,
    ]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(f"pip failed: {' '.join(arguments)}")


if __name__ == "__main__":
    sys.exit(main())
