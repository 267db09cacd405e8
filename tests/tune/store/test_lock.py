"""Two processes never work on one experiment, and a lock ends with its process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainable.errors import ExperimentError
from tune.store.lock import is_locked, locked

HOLD = """
import sys
from pathlib import Path
from tune.store.lock import locked

with locked(Path(sys.argv[1]) / "lock.json", "e"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(tmp_path / "lock.json")
        with (
            pytest.raises(ExperimentError, match=f"worked on by process {holder.pid} on .* since 20"),
            locked(tmp_path / "lock.json", "e"),
        ):
            pass
        holder.kill()
        holder.wait()
        # However it ended: nothing stale is left behind.
        assert not is_locked(tmp_path / "lock.json")
        with locked(tmp_path / "lock.json", "e"):
            assert f'"pid": {os.getpid()}' in (tmp_path / "lock.json").read_text()


def test_nothing_is_locked_where_nothing_was(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock.json")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF])
def test_a_file_system_without_locks_is_that_and_not_another_process(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(ExperimentError, match=r"file system without file locks \(.*--results_dir"),
        locked(tmp_path / "lock.json", "e"),
    ):
        pass
    assert not is_locked(tmp_path / "lock.json")
