"""The search for leads: in known data only, or in contents, regions and files, too."""

from collections.abc import Iterable, Iterator

from memory_visualizer.formats.base import Progress
from memory_visualizer.leads.code import code_leads
from memory_visualizer.leads.images import image_leads
from memory_visualizer.leads.lead import LEADS, Lead, Leads
from memory_visualizer.leads.modules import module_leads
from memory_visualizer.leads.processes import process_leads, record_leads
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.leads.writable import packed_leads, writable_code, writable_leads
from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.snapshot import Snapshot

_FEW_PAGES = 256
"""The most pages that are read even without --leads."""


def known_leads(snapshot: Snapshot) -> Leads:
    """The leads in data that is known already.

    This costs next to nothing: it reads no regions, no files, the contents of a few pages at most,
    and uses the kernel's records only if they were read before.
    """
    budget, pages = Budget(snapshot.dump.frame_count), ProcessPages(snapshot)
    code = list(writable_code(snapshot, pages, ask_regions=False))
    parts = [
        process_leads(snapshot, pages),
        writable_leads(snapshot, code),
        packed_leads(snapshot, code, budget, _FEW_PAGES),
        record_leads(snapshot) if snapshot.has_read_records else (),
    ]
    return _leads(parts, budget, is_complete=False)


def leads_so_far(snapshot: Snapshot) -> Leads:
    """All leads if Snapshot.leads was used before; otherwise the leads in known data."""
    found: Leads | None = vars(snapshot).get("leads")
    return found or known_leads(snapshot)


def all_leads(snapshot: Snapshot, progress: Progress | None = None) -> Leads:
    """All leads in a dump, which is read once more for them.

    `progress` and errors as for Dump.scan.
    """
    budget, pages = Budget(snapshot.dump.frame_count), ProcessPages(snapshot)
    code = list(writable_code(snapshot, pages, ask_regions=True))
    parts = [
        process_leads(snapshot, pages),
        writable_leads(snapshot, code),
        packed_leads(snapshot, code, budget),
        record_leads(snapshot),
        module_leads(snapshot, budget),
        code_leads(snapshot, pages, budget),
        image_leads(snapshot, pages, budget, progress),
    ]
    return _leads(parts, budget, is_complete=True)


def _leads(parts: Iterable[Iterable[Lead]], budget: Budget, *, is_complete: bool) -> Leads:
    order = {kind: number for number, kind in enumerate(LEADS)}
    found = sorted(_bounded(parts, budget), key=lambda lead: order[lead.kind])
    return Leads(tuple(found), is_complete, tuple(budget.remarks))


def _bounded(parts: Iterable[Iterable[Lead]], budget: Budget) -> Iterator[Lead]:
    """The leads of each search, as many as the budget allows."""
    for part in parts:
        room = budget.limit("lead")
        for lead in part:
            if room:
                room -= 1
                yield lead
            else:
                budget.refuse("lead", 1)
