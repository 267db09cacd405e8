"""Nothing that prints can end a command: closed pipes, poor encodings, and text that looks like markup."""

import os
import subprocess
import sys

PRINT = """
import sys
from tune.read import terminal

console = terminal.console()
for number in range(20_000):
    console.print(f"{number} ━━━ [/INST] [red]not red")
console.print("the end")
sys.stderr.write("reached the end")
"""


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", shell.replace("PYTHON", f"{sys.executable} -c '{PRINT}'")]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, check=False)


def test_a_reader_that_leaves_silences_the_output_and_nothing_else() -> None:
    done = run("set -o pipefail; PYTHON | head -n 1")
    assert done.returncode == 0
    assert done.stdout.decode().startswith("0 ")
    assert done.stderr == b"reached the end"


def test_what_the_terminal_cannot_show_is_replaced() -> None:
    done = run("PYTHON | tail -n 2", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert b"??? [/INST] [red]not red" in done.stdout
    assert done.stdout.endswith(b"the end\n")
