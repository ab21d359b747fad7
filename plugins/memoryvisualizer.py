"""Volatility 2 plugin: which pages of physical memory the kernel and the processes map.

It walks the page tables of every process in the list and prints the text page map from which
imagegenerator.py paints a picture:

    (Virtual)   (Physical)    (Size)    (Kernel)
    ----------------------------------------------
    0x80400000  0x400000      0x1000    True

    vol.py --plugins=plugins -f DUMP --profile=PROFILE memoryvisualizer --output-file=MAP
"""

import bisect
import collections
import struct
import sys

import volatility.debug as debug
import volatility.exceptions as exceptions
import volatility.obj as obj
import volatility.plugins.taskmods as taskmods
import volatility.registry as registry
from volatility.renderers import TreeGrid
from volatility.renderers.basic import Address, Hex

PAGE_SIZE = 0x1000

# The pages of one page table as (virtual, physical, size, kernel), and the process by which the
# table was reached.
Found = collections.namedtuple("Found", "pid process mappings")

# A paging mode, level by level from the top (Intel SDM, volume 3A, 4.3 to 4.5): an entry at that
# level covers 2**shift bytes; `page` names the address space's own method for the physical address
# of a page mapped there (None if the level maps no pages); `mode` tells whether the entry has a U/S
# bit.
Level = collections.namedtuple("Level", "shift index_bits page mode")
Paging = collections.namedtuple("Paging", "entry_size levels")

AMD64 = Paging(
    8,
    (
        Level(39, 9, None, True),
        Level(30, 9, "get_1GB_paddr", True),
        Level(21, 9, "get_2MB_paddr", True),
        Level(12, 9, "get_paddr", True),
    ),
)
PAE = Paging(
    8,
    (
        Level(30, 2, None, False),
        Level(21, 9, "get_large_paddr", True),
        Level(12, 9, "get_paddr", True),
    ),
)
IA32 = Paging(4, (Level(22, 10, "get_four_meg_paddr", True), Level(12, 10, "get_paddr", True)))

TABLE_MASK = 0xFFFFFFFFFF000
PAE_TABLE_MASK = 0xFFFFFFE0  # the four directory pointers take 32 bytes


def paging_of(space):
    """Return the Paging that an address space of Volatility uses."""
    if space.profile.metadata.get("memory_model", "32bit") == "64bit":
        return AMD64
    return PAE if space.pae else IA32


def canonical(virtual):
    """Return the canonical address: bit 47 repeated in all higher bits."""
    return virtual | 0xFFFF000000000000 if virtual >> 47 else virtual


def printable(name):
    """Return a process name with escapes for all that could harm a terminal."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "\\x%02x" % ord(c) for c in name)


class Runs(object):
    """The stretches of physical memory that the dump holds."""

    def __init__(self, physical_space):
        """Read the runs of a physical address space, in whole pages."""
        self.starts, self.ends = [], []
        for start, size in sorted(physical_space.get_available_addresses()):
            first = -(-start // PAGE_SIZE) * PAGE_SIZE
            last = (start + size) // PAGE_SIZE * PAGE_SIZE
            if self.ends and first <= self.ends[-1]:
                self.ends[-1] = max(last, self.ends[-1])
            elif first < last:
                self.starts.append(first)
                self.ends.append(last)

    def __contains__(self, address):
        """Whether the dump holds the page at this address."""
        number = bisect.bisect_right(self.starts, address) - 1
        return number >= 0 and address < self.ends[number]

    def within(self, start, size):
        """Return (address, size) of each part of the given stretch that the dump holds."""
        parts = [
            (max(start, first), min(start + size, last))
            for first, last in zip(self.starts, self.ends)
        ]
        return [(first, last - first) for first, last in parts if first < last]


class Walker(object):
    """Walks page tables; tables that processes share are read only once.

    With `every_mapping` nothing is shared: the kernel's mappings repeat for each process.
    """

    def __init__(self, runs, every_mapping):
        self._runs = runs
        self._every_mapping = every_mapping
        self._seen_by_kernel = set()
        self._directories = set()

    def mappings(self, space):
        """Yield lists of (virtual, physical, size, kernel), one for each table with pages.

        `kernel` is False if user mode may reach the page: if U/S is set in the entries of all
        levels (SDM, volume 3A, 4.6). Pages that the dump does not hold are left out.
        """
        paging = paging_of(space)
        top = space.dtb & (PAE_TABLE_MASK if paging is PAE else TABLE_MASK)
        return self._walk(space, paging, 0, top, 0, True, set())

    def _walk(self, space, paging, depth, table, virtual, user, seen_by_user):
        level = paging.levels[depth]
        entries = self._present_entries(space, paging, level, depth, table)
        if depth == len(paging.levels) - 1:
            mappings = self._pages(space, level, virtual, entries, user)
            if table in self._directories:
                # Through its own mapping, each process's directory shows the kernel's tables.
                mappings = [m for m in mappings if self._is_new(m, not m[3], seen_by_user)]
            yield mappings
            return
        if depth <= (paging is PAE):  # PAE: the four directories, not the 32 bytes above them
            self._directories.add(table)
        large_page_address = level.page and getattr(space, level.page)
        for index, entry in entries:
            address = virtual + (index << level.shift)
            mode = user and not (level.mode and space.is_supervisor_page(entry))
            if large_page_address and space.page_size_flag(entry):
                # The directory may belong to one process, but all share the kernel's large page.
                if self._is_new((address, entry), mode, seen_by_user):
                    physical = large_page_address(address, entry)
                    yield [
                        (canonical(address + start - physical), start, size, not mode)
                        for start, size in self._runs.within(physical, 1 << level.shift)
                    ]
                continue
            below = entry & TABLE_MASK
            if self._is_new((below, depth), mode, seen_by_user):
                for mappings in self._walk(
                    space, paging, depth + 1, below, address, mode, seen_by_user
                ):
                    yield mappings

    def _pages(self, space, level, virtual, entries, user):
        """Return the mappings of a table of the last level."""
        virtual, shift = canonical(virtual), level.shift
        page_address, is_supervisor, runs = space.get_paddr, space.is_supervisor_page, self._runs
        mappings = []
        for index, entry in entries:
            address = virtual + (index << shift)
            physical = page_address(address, entry) & -PAGE_SIZE
            if physical in runs:
                kernel = not user or is_supervisor(entry)
                mappings.append((address, physical, PAGE_SIZE, kernel))
        return mappings

    def _present_entries(self, space, paging, level, depth, table):
        """Return (index, entry) of entries that Volatility takes as present."""
        count = 1 << level.index_bits
        data = space.base.read(table, count * paging.entry_size)
        if not data or len(data) != count * paging.entry_size:
            return []
        entries = struct.unpack("<%d%s" % (count, "Q" if paging.entry_size == 8 else "I"), data)
        is_present = space.entry_present
        present = [
            (index, entry)
            for index, entry in enumerate(entries)
            if entry & 1 or (entry and is_present(entry))
        ]
        # Windows 8 and later repeat kernel entries by the million. This costs nothing if tables are
        # read only once; otherwise they are skipped, as in Volatility's own address space.
        if self._every_mapping and depth >= 2 and getattr(space, "skip_duplicate_entries", False):
            return [(i, entry) for i, entry in present if not i or entry != entries[i - 1]]
        return present

    def _is_new(self, key, user, seen_by_user):
        """Remember the key; False if it was met before.

        Tables on the way to user pages are remembered for the process, tables of the kernel for
        all. So each table is read once for each level on which it serves, even if tables lead in
        circles by damage or intent.
        """
        if self._every_mapping:
            return True
        seen = seen_by_user if user else self._seen_by_kernel
        if key in seen:
            return False
        seen.add(key)
        return True


class MemoryVisualizer(taskmods.DllList):
    """Page map of physical memory: what the kernel and the processes map (for a picture)"""

    def __init__(self, config, *args, **kwargs):
        taskmods.DllList.__init__(self, config, *args, **kwargs)
        config.add_option(
            "OWNER",
            default=False,
            action="store_true",
            help="Add to each row the pid and name of the process through which it was found",
        )
        config.add_option(
            "EVERY-MAPPING",
            default=False,
            action="store_true",
            help="List the kernel's mappings again for each process that shares them",
        )

    def calculate(self):
        """Yield a Found for each table; unreadable data are reported in a sentence."""
        walker = None
        tasks = self._tasks()
        for number, task in enumerate(tasks):
            name = printable(str(task.ImageFileName))
            label = "%s (pid %d)" % (name, task.UniqueProcessId)
            if task.ExitTime.v():
                debug.info(label + " has exited: its pages are free, it is left out")
                continue
            space = task.get_process_address_space()
            if not space:
                debug.warning(label + ": its page tables are gone, it is left out")
                continue
            self._show_progress("process %d of %d: %s" % (number + 1, len(tasks), label))
            walker = walker or Walker(Runs(space.base), self._config.EVERY_MAPPING)
            for mappings in walker.mappings(space):
                yield Found(int(task.UniqueProcessId), name, mappings)
        self._show_progress("")
        if walker is None:
            debug.error("No process has page tables that can be read: nothing to map")

    def _tasks(self):
        """Return the chosen processes; end with a sentence if there are none."""
        try:
            tasks = list(taskmods.DllList.calculate(self))
        except exceptions.AddrSpaceError:
            debug.error(
                "No Windows like %s in this dump: the profile may be wrong (imageinfo suggests "
                "some), or the file is not a memory dump" % self._config.PROFILE
            )
        except AttributeError:  # Volatility raises this if the list's head is not readable
            tasks = []
        if not tasks:
            debug.error(
                "The dump has no list of processes that %s can read: the profile may be wrong, "
                "or the memory is damaged" % self._config.PROFILE
            )
        if isinstance(tasks[0], obj.NoneObject):
            debug.error("There is no process at the physical offset %#x" % self._config.OFFSET)
        return tasks

    @staticmethod
    def _show_progress(text):
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + text)

    def render_text(self, outfd, data):
        """Write the text page map."""
        profile = registry.get_plugin_classes(obj.Profile)[self._config.PROFILE]
        wide = 20 if profile._md_memory_model == "64bit" else 12
        titles = "%-*s%-14s%-10s%s" % (wide, "(Virtual)", "(Physical)", "(Size)", "(Kernel)")
        # A separate blank follows each column, however long its number.
        form = "%%-#%dx %%-#13x %%-#9x %%s\n" % (wide - 1)
        if self._config.OWNER:
            titles += "  (Pid)   (Process)"
            form = form.replace("%s\n", "%-8s  %-6d  %s\n")
        outfd.write(titles + "\n" + "-" * (len(titles) + 2) + "\n")
        for pid, process, mappings in data:
            owner = (pid, process) if self._config.OWNER else ()
            outfd.write("".join([form % (mapping + owner) for mapping in mappings]))

    def unified_output(self, data):
        """Return the rows for all other renderers."""
        columns = [
            ("Virtual", Address),
            ("Physical", Address),
            ("Size", Hex),
            ("Kernel", str),
        ]
        if self._config.OWNER:
            columns += [("Pid", int), ("Process", str)]
        return TreeGrid(columns, self.generator(data))

    def generator(self, data):
        """Yield (depth, values) of each row, as for TreeGrid."""
        for pid, process, mappings in data:
            owner = [pid, process] if self._config.OWNER else []
            for virtual, physical, size, kernel in mappings:
                yield (0, [Address(virtual), Address(physical), Hex(size), str(kernel)] + owner)
