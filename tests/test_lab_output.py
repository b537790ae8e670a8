"""What a program of a lab's PC printed is there when it has ended, however late the lab's threads come to read it."""

import subprocess
import sys
import time

import pytest
import wine_pc


class Late:
    """Takes a program's complaints, slowly."""

    def sub(self, _new: bytes, data: bytes) -> bytes:
        """The data, after a while."""
        time.sleep(0.02)
        return data


def command(code: str) -> wine_pc.Command:
    """A program whose output is collected."""
    return wine_pc.Command(
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    )


def read(running: wine_pc.Command) -> tuple[bytes, bytes, int]:
    """All that it printed, and its exit code."""
    said, code = {"stdout": b"", "stderr": b""}, None
    while code is None:
        taken, code = running.receive(20)
        said = {name: said[name] + taken[name] for name in said}
    return said["stdout"], said["stderr"], code


def test_output_is_whole_where_the_lab_reads_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wine_pc, "CHUNK", 1)
    monkeypatch.setattr(wine_pc, "WINE_NOISE", Late())
    assert read(command("import sys; print('{}'); sys.stderr.write('x' * 60); sys.exit(7)")) == (b"{}\n", b"x" * 60, 7)


def test_a_child_that_keeps_the_pipe_does_not_keep_the_reader() -> None:
    child = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)']); print('{}')"
    )
    begun = time.monotonic()
    assert read(command(child))[:2] == (b"{}\n", b"")
    assert time.monotonic() - begun < 7
