"""Lines of the summary of ``memviz DUMP`` on processes."""

from collections.abc import Sequence

from memory_visualizer.api import Snapshot
from memory_visualizer.leads import writable_pages
from memory_visualizer.printable import counted, mebibytes, printable
from memory_visualizer.snapshot.findings import findings, named, odd_regions, with_most_pages
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE


def process_lines(snapshot: Snapshot, told: Sequence[int], *, threads: bool) -> list[str]:
    """A table of these processes with their pages; the names, which may be long, come last.

    Kernel threads have no pages, and are counted; with `threads` they are listed as well.
    """
    processes = [snapshot.processes[index] for index in told]
    lines = [
        _process_title(processes),
        f"{'pid':>8} {'parent':>8} {'private':>10} {'shared':>10} {'size':>10}  {'':<9}  name",
    ]
    counts = snapshot.pages_of_processes()[told].tolist()
    for process, (private, shared) in zip(processes, counts, strict=True):
        if process.is_kernel_thread and not threads:
            continue
        if process.state == "unknown":
            pid = parent = "?"
        else:
            pid, parent = str(process.pid), str(process.ppid)
        size = mebibytes((private + shared) * PAGE_SIZE)
        lines.append(
            f"{pid:>8} {parent:>8} {private:>10,} {shared:>10,} {size:>10}"
            f"  {process.state:<9}  {printable(process.shown_name)}"
        )
    if snapshot.stale_spaces:
        spaces = counted(snapshot.stale_spaces, "address space")
        lines.append(f"{spaces} without a process: not painted")
    return lines


def _process_title(processes: Sequence[Process]) -> str:
    """The title of the table: the number of processes, in all and of each kind."""
    threads = sum(process.is_kernel_thread for process in processes)
    states = [process.state for process in processes if not process.is_kernel_thread]
    title = f"Pages of {counted(len(states), 'process', 'processes')}"
    for state, what in (
        ("unlinked", "unlinked (not in the list of active processes)"),
        ("starting", "starting"),
        ("ending", "ending"),
        ("exited", "exited"),
        ("no tables", "with page tables that the dump does not hold"),
        ("no memory", "without memory"),
        ("unknown", "known by their page tables only"),
    ):
        if number := states.count(state):
            title += f", {number:,} {what}"
    if threads:
        title += f"; {counted(threads, 'kernel thread')}, which have none"
    return title


def finding_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The anomalies of these processes, a line for each kind; no line if there are none."""
    found = findings([snapshot.processes[index] for index in told])
    if not found:
        return []
    width = max(map(len, found))
    return [
        "Anomalies of processes",
        *(f"  {word:<{width}}  {printable(named(found[word]))}" for word in found),
    ]


def region_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """Findings about regions of these processes, a line for each kind; empty without findings."""
    from memory_visualizer.export.inventorytables import PagesOfProcesses  # as most do not ask

    processes = [snapshot.processes[index] for index in told]
    found = odd_regions((process, snapshot.regions(process) or ()) for process in processes)
    pages = PagesOfProcesses(snapshot, of_user=True)
    outside = [
        (process, count)
        for index, process in zip(told, processes, strict=True)
        if (regions := snapshot.regions(process)) and (count := pages.outside(index, regions))
    ]
    lines = []
    for word, rows in (found | ({"pages in no region": outside} if outside else {})).items():
        total = sum(count for _, count in rows)
        names = printable(named([process for process, _ in rows]))
        lines.append(f"  {word}: {total:,} in {names}")
    return ["Findings about regions", *lines] if lines else []


def others_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The number of processes that the summary leaves out because they were not chosen."""
    others = [snapshot.processes[index] for index in _left_out(snapshot, told)]
    if not others:
        return []
    odd = sum(process.state == "unlinked" or bool(process.anomalies) for process in others)
    leads = f"; {odd:,} of them with anomalies" if odd else ""
    return [f"{counted(len(others), 'other process', 'other processes')} not chosen{leads}"]


def _left_out(snapshot: Snapshot, told: Sequence[int]) -> list[int]:
    """Indices of the processes that are not among these."""
    among = set(told)
    return [index for index in range(len(snapshot.processes)) if index not in among]


def writable_code_lines(snapshot: Snapshot, told: Sequence[int]) -> list[str]:
    """The processes with private pages that user mode may write and execute.

    Programs that generate code at run time have such pages; other pages may hold injected code.
    """
    pages = writable_pages(snapshot)
    pages[_left_out(snapshot, told)] = 0
    if not pages.any():
        return []
    total = counted(int(pages.sum()), "private page")
    owners = with_most_pages(snapshot.processes, pages)
    return [f"{total} that user mode may write and execute: {owners}"]
