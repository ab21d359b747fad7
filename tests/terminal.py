"""A terminal for the programs that the tests run."""

import os
from collections.abc import Callable
from contextlib import suppress

with suppress(ImportError):  # Windows has neither
    import pty
    import termios


def on_a_terminal(run_it: Callable[[int], object]) -> str:
    """The text that a program writes to a terminal, whose file descriptor the program gets."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    run_it(slave)
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 4096):
            output += chunk
    except OSError:  # Linux' error if the other side is closed
        pass
    finally:
        os.close(master)
    return output.decode()
