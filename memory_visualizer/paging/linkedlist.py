"""Doubly linked lists of a kernel: Linux' list_head, and LIST_ENTRY of Windows."""

from memory_visualizer.paging.virtualmemory import VirtualMemory


def links_of(
    memory: VirtualMemory, head: int, *, backwards: bool, lowest: int, limit: int
) -> tuple[list[int], bool]:
    """The links of a list from its head on, in one direction; and whether it leads back to it.

    A link is a pointer forwards, and behind it a pointer backwards. The list ends at an address
    below `lowest`, at a link that was met before, where nothing is readable, and behind `limit`
    links and one more.
    """
    step = memory.word if backwards else 0
    found: list[int] = []
    at, seen = memory.number(head + step), {head}
    while at is not None and at >= lowest and at not in seen and len(found) <= limit:
        seen.add(at)
        found.append(at)
        at = memory.number(at + step)
    return found, at == head


def joined_links(
    memory: VirtualMemory, head: int, *, lowest: int, limit: int
) -> tuple[list[int], bool]:
    """The links of a list forwards, and backwards where it is broken; and whether it is whole."""
    found, is_whole = links_of(memory, head, backwards=False, lowest=lowest, limit=limit)
    if not is_whole:
        others, _ = links_of(memory, head, backwards=True, lowest=lowest, limit=limit)
        known = set(found)
        found += [link for link in reversed(others) if link not in known]
    return found, is_whole
