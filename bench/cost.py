"""Run a command and write its cost to a file, as JSON.

Usage: cost.py RESULT COMMAND [ARGUMENT ...]

This is a separate, small process, because Linux counts the memory in use by a process that starts a
command as the command's.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the command and return its exit code."""
    result, *command = sys.argv[1:]
    begin = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    cost = {
        "wall": time.perf_counter() - begin,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / 1024,  # it is in KiB on Linux
    }
    Path(result).write_text(json.dumps(cost))
    return abs(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(main())
