"""A process, whatever the system that runs it."""

from dataclasses import dataclass

from memory_visualizer.dump import PAGE_SIZE


@dataclass(frozen=True)
class Process:
    """A process as its object in the kernel tells: `_EPROCESS`, or on Linux `task_struct`."""

    pid: int
    ppid: int
    name: str
    """The image's name, up to 15 bytes; on Linux the `comm` of the first thread."""
    dtb: int
    """Physical address of its top-level page table; 0 where it has none (kernel threads)."""
    eprocess: int
    """Virtual address of its object in the kernel; 0 where only its page tables were found."""
    created: int
    """Windows timestamp (100 ns since 1601, UTC); 0 where there is none."""
    exited: int
    """Windows timestamp; 0 while it lives, or where only the object's state tells its end."""
    is_alive: bool
    is_listed: bool
    """Whether it is in the system's list of processes."""
    space: int | None
    """Index of its address space among those that were found."""
    shadow: int | None = None
    """Index of its second table, for user mode, in TopLevels.others."""
    is_kernel_thread: bool = False
    """Whether it is a thread of a Linux kernel, which has no memory of its own."""

    @property
    def state(self) -> str:
        """What is out of the common with it in a word or two, or nothing."""
        if not self.eprocess:
            return "unknown"
        if not self.is_alive:
            return "exited"
        if not self.is_listed:
            return "unlinked"
        if self.is_kernel_thread:
            return "kernel thread"
        return "" if self.space is not None else "no tables"


def unnamed(frame: int, space: int) -> Process:
    """Stand for a process of which only the page tables were found; the top one in `frame`."""
    return Process(
        pid=-1,
        ppid=-1,
        name="(unknown)",
        dtb=frame * PAGE_SIZE,
        eprocess=0,
        created=0,
        exited=0,
        is_alive=True,
        is_listed=False,
        space=space,
    )
