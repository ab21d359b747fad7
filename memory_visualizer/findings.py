"""What is odd about the processes of a dump, as sentences and groups for those who look at it."""

from collections import defaultdict
from collections.abc import Sequence

from memory_visualizer.process import Process

_MOST_NAMED = 6


def findings(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """The processes that each word of process.ANOMALIES fits, the rarest word first.

    What is odd about few is the better lead. An address behind a word is left out here.
    """
    found: dict[str, list[Process]] = defaultdict(list)
    for process in processes:
        for word in process.anomalies:
            found[word.split(" 0x")[0]].append(process)
    return dict(sorted(found.items(), key=lambda row: (len(row[1]), row[0])))


def named(processes: Sequence[Process]) -> str:
    """The first of some processes by name and pid, and how many more there are. Not yet printable.

    One of which only the tables are known goes by the address of the top one.
    """
    names = [
        f"{process.name} ({process.pid})" if process.eprocess else f"tables at {process.dtb:#x}"
        for process in processes[:_MOST_NAMED]
    ]
    more = len(processes) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def remarks_on_copies(copies: Sequence[Process]) -> tuple[str, ...]:
    """A sentence on old copies of process objects, where there are any."""
    if not copies:
        return ()
    if len(copies) == 1:
        return (f"an old copy of a process object is there, and is no process: {named(copies)}",)
    return (
        f"{len(copies):,} old copies of process objects are there, and are no processes:"
        f" {named(copies)}",
    )
