"""The report on each process with its anomalies, and the remarks on all processes together."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from memory_visualizer.printable import counted
from memory_visualizer.snapshot.process import FoundProcess
from memory_visualizer.windows.processjudge import Judged
from memory_visualizer.windows.processlayout import SYSTEM_PID, is_pid, kernel_space
from memory_visualizer.windows.processobject import Object, is_time
from memory_visualizer.windows.toplevels import LATEST, time_of, timestamp_of

_SAVED_WITHIN = 36_000_000_000
"""An hour in timestamps of Windows: a machine may run on while its memory is saved, so a process
may be as much younger than the page with the clock."""
_NAMED = 8
"""The most processes that a remark names."""


def put_together(
    judged: Judged, nameless: list[FoundProcess], left_out: int, time: datetime | None
) -> tuple[tuple[FoundProcess, ...], tuple[FoundProcess, ...], tuple[str, ...]]:
    """The processes with the anomalies of each, the copies, and remarks on all of them."""
    now = None if time is None else timestamp_of(time) + _SAVED_WITHIN
    late = [one for one in judged.processes if now and one.created and now < one.created < LATEST]
    if 2 * len(late) > len(judged.processes):
        now, late = None, late  # if most lie in the future, the clock is wrong
    processes = [_process(judged, one, now) for one in judged.processes]
    copies = [_process(judged, one, now) for one in judged.copies]
    remarks = _remarks(judged, left_out)
    if late and now is None:
        remarks.append(
            f"{len(late):,} of {len(processes):,} processes were created after the time that the"
            " system's clock shows: the clock is ignored"
        )
    everyone = sorted(
        (*_with_doubles(judged, processes), *nameless),
        key=lambda process: (process.pid, process.object_address),
    )
    return tuple(everyone), tuple(copies), tuple(remarks)


def _process(judged: Judged, one: Object, now: int | None) -> FoundProcess:
    owner = None if one.space is None else judged.owners[one.space]
    has_tables = judged.has_tables(one)
    is_listed = judged.is_listed(one)
    phase = _phase(judged, one, is_listed)
    has_ended = one.has_ended and not (phase == "ending" and not one.is_signalled)
    process = FoundProcess(
        pid=one.pid,
        ppid=one.ppid,
        name=one.name.decode("utf-8", "backslashreplace"),
        dtb=one.dtb,
        object_address=one.address,
        created=time_of(one.created or 0),
        exited=time_of(one.exited or 0),
        is_alive=not has_ended,
        is_listed=is_listed,
        space=one.space if has_tables else None,
        shadow=one.shadow,
    )
    odd = [*filter(None, [phase]), *_oddities(judged, one, is_listed, phase, now)]
    if not has_tables and not has_ended:
        odd.append(f"base also of {owner.address:#x}" if owner else "base leads to no table")
    return replace(process, anomalies=tuple(odd))


def _phase(judged: Judged, one: Object, is_listed: bool) -> str:
    """``starting`` or ``ending`` if the dump was taken while the process did so; else empty.

    A process that starts has no links yet, and lacks threads or other members that all processes
    have. A process that ends has no links any more, or its end is noted but not yet signalled.
    """
    is_out = not is_listed and judged.own_links(one) == (0, 0)
    if one.has_exit_time and not one.is_signalled and one.has_ended_by_status is not False:
        return "ending"
    if one.has_ended:
        return "ending" if is_out else ""
    if not is_out:
        return ""
    return "starting" if one.has_threads is False or one.lacks_signs else ""


def _oddities(
    judged: Judged, one: Object, is_listed: bool, phase: str, now: int | None
) -> Iterator[str]:
    """The anomalies (process.ANOMALIES) that an object shows by itself."""
    if not one.is_header_sound:
        yield "header altered"
    if judged.are_links_wrong(one) and not phase:
        yield "links lead nowhere"
    if not one.is_pid_sound:
        yield "pid not plausible"
    if one.thread_pid not in (None, one.pid):
        yield "threads tell another pid"
    if not one.is_name_sound:
        yield "name not printable"
    if one.ppid and (not is_pid(one.ppid) or one.ppid == one.pid):
        yield "parent unknown"
    yield from _odd_times(one, phase, now)
    if not one.is_whole:
        yield "not whole"
    if one.address < kernel_space(judged.objects.layout.bits):
        yield "object not mapped"


def _odd_times(one: Object, phase: str, now: int | None) -> Iterator[str]:
    """The anomalies of creation and exit time, if the offsets of these times are known."""
    may_be_zero = one.pid == SYSTEM_PID or phase == "starting"
    if one.created is not None:
        if not is_time(one.created) and not (one.created == 0 and may_be_zero):
            yield "creation time not plausible"
        elif now is not None and one.created > now:
            yield "created in the future"
    if one.exited and not one.has_exit_time:
        yield "exit time not plausible"
    if phase != "ending" and len(set(one.told)) > 1:
        yield "end in doubt"


def _with_doubles(judged: Judged, processes: list[FoundProcess]) -> Iterator[FoundProcess]:
    """Report pids of several processes; the process whose own thread confirms it owns a pid."""
    by_pid = defaultdict(list)
    for one, process in zip(judged.processes, processes, strict=True):
        by_pid[one.pid].append((one.thread_pid not in (None, one.pid), process))
    for same in by_pid.values():
        right = [process for is_wrong, process in same if not is_wrong] or [same[0][1]]
        for _, process in same:
            word = f"pid also of {right[0].object_address:#x}"
            is_doubtful = not any(process is one for one in right)
            yield replace(process, anomalies=(*process.anomalies, word)) if is_doubtful else process


def _undecided(judged: Judged) -> Iterator[str]:
    """Sentences on address spaces and pids that several processes claim with equal right."""
    for space, others in judged.others.items():
        if others:
            *named, last = map(_title, (judged.owners[space], *others))
            yield f"{', '.join(named)} and {last} name the same page tables"
    by_pid = defaultdict(list)
    for one in judged.processes:
        if one.is_pid_sound and one.thread_pid in (None, one.pid):
            by_pid[one.pid].append(one)
    for pid, same in sorted(by_pid.items()):
        if len(same) > 1:
            places = ", ".join(f"{one.address:#x}" for one in same[:_NAMED])
            yield f"{len(same):,} processes have the pid {pid}: their objects lie at {places}"


def _remarks(judged: Judged, left_out: int) -> list[str]:
    """Remarks on facts that could not be found out about the processes as a whole."""
    remarks = []
    active = judged.objects.list
    if not judged.is_list_known and len(judged.processes) > 1:
        remarks.append(
            "the list of active processes was not found: no process is reported as unlinked"
        )
    elif active.gaps:
        places = [
            " and ".join(
                filter(
                    None, (_named(judged, side, at) for side, at in zip(_SIDES, gap, strict=True))
                )
            )
            for gap in active.gaps
        ]
        some = "; ".join(places[:_NAMED])
        more = f"; {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
        count = "one place" if len(places) == 1 else f"{len(places):,} places"
        remarks.append(f"the list of active processes is broken at {count}: {some}{more}")
    remarks += _shortened(list(_undecided(judged)))
    if active.left_out:
        remarks.append(
            f"{counted(active.left_out, 'link')} between processes"
            f" {'was' if active.left_out == 1 else 'were'} not followed: there are more than any"
            " machine has"
        )
    if left_out:
        remarks.append(
            f"{counted(left_out, 'place')} where a process object may lie"
            f" {'was' if left_out == 1 else 'were'} not examined: there are more than any machine"
            " has"
        )
    return remarks


def _shortened(sentences: list[str]) -> list[str]:
    """The first of many sentences, and how many more there are."""
    more = len(sentences) - _NAMED
    return sentences[:_NAMED] + ([f"{more:,} more of this kind"] if more > 0 else [])


def _title(one: Object) -> str:
    return f"{one.name.decode('utf-8', 'backslashreplace')} ({one.pid})"


_SIDES = ("behind", "before")


def _named(judged: Judged, side: str, entry: int) -> str:
    """The description of a place in the list, by the process there."""
    one = judged.objects.found.get(entry)
    if not entry:
        return ""
    if one is None:
        return f"{side} {entry:#x}"
    return f"{side} {_title(one)}"
