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

Row = collections.namedtuple("Row", "virtual physical size kernel pid process")

# How one way of paging is walked, level by level from the top (Intel SDM, volume 3A, 4.3 to
# 4.5): an entry at that level covers 2**shift bytes; `page` names the address space's own
# method for the physical address of a page mapped there (None where there are none); `mode`
# tells whether the entry has a U/S bit.
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


def paging_of(space):
    """Return the Paging that an address space of Volatility uses."""
    if space.profile.metadata.get("memory_model", "32bit") == "64bit":
        return AMD64
    return PAE if space.pae else IA32


def canonical(virtual):
    """Return the address as programs write it: bit 47 repeated above."""
    return virtual | 0xFFFF000000000000 if virtual >> 47 else virtual


def printable(name):
    """Return a process name with all that could harm a terminal escaped: a dump is hostile."""
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

    def within(self, start, size):
        """Yield (address, size) of each part of the given stretch that the dump holds."""
        number = max(bisect.bisect_right(self.starts, start) - 1, 0)
        while number < len(self.starts) and self.starts[number] < start + size:
            first = max(start, self.starts[number])
            last = min(start + size, self.ends[number])
            if first < last:
                yield first, last - first
            number += 1


class Walker(object):
    """Walks page tables, each of those that processes share just once.

    With `every_mapping` nothing is shared: the kernel's mappings come again for each process.
    """

    def __init__(self, runs, every_mapping):
        self._runs = runs
        self._every_mapping = every_mapping
        self._seen_by_kernel = set()

    def mappings(self, space):
        """Yield (virtual, physical, size, kernel) for each mapping of the address space.

        `kernel` is False where user mode may reach the page: where U/S is set in the entries
        of all levels (SDM, volume 3A, 4.6). Pages that the dump does not hold are left out.
        """
        top = space.dtb & (TABLE_MASK if paging_of(space) is not PAE else 0xFFFFFFE0)
        return self._walk(space, paging_of(space), 0, top, 0, True, set())

    def _walk(self, space, paging, depth, table, virtual, user, seen_by_user):
        level = paging.levels[depth]
        entries = self._entries(space, paging, level, table)
        is_last = depth == len(paging.levels) - 1
        page_address = level.page and getattr(space, level.page)
        size = 1 << level.shift
        skip_repeats = self._every_mapping and getattr(space, "skip_duplicate_entries", False)
        previous = None
        for index, entry in enumerate(entries):
            # Windows 8 and later repeat kernel entries by the million; so Volatility skips them.
            repeated, previous = skip_repeats and depth >= 2 and entry == previous, entry
            if not entry or repeated or not space.entry_present(entry):
                continue
            address = virtual + (index << level.shift)
            mode = user and not (level.mode and space.is_supervisor_page(entry))
            if is_last or (page_address and space.page_size_flag(entry)):
                # A directory belongs to one process, a kernel's large page in it to all.
                if is_last or self._is_new((address, entry), mode, seen_by_user):
                    physical = page_address(address, entry)
                    for start, length in self._runs.within(physical, size):
                        shown = canonical(address + start - physical)
                        yield shown, start, length, not mode
            else:
                below = entry & TABLE_MASK
                if self._is_new((below, depth), mode, seen_by_user):
                    for mapping in self._walk(
                        space, paging, depth + 1, below, address, mode, seen_by_user
                    ):
                        yield mapping

    def _entries(self, space, paging, level, table):
        """Return the table's entries; none where the dump does not hold it."""
        count = 1 << level.index_bits
        data = space.base.read(table, count * paging.entry_size)
        if not data or len(data) != count * paging.entry_size:
            return ()
        return struct.unpack("<%d%s" % (count, "Q" if paging.entry_size == 8 else "I"), data)

    def _is_new(self, key, user, seen_by_user):
        """Remember the key; False if it was met before.

        What leads to user pages is remembered for the one process, what leads to the kernel's
        for all. So each table is read once for each level at which it serves, also where
        tables (damaged or made so) lead in circles.
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
        """Yield a Row for each mapping; what cannot be read is told in a sentence."""
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
            pid = int(task.UniqueProcessId)
            for virtual, physical, size, kernel in walker.mappings(space):
                yield Row(virtual, physical, size, kernel, pid, name)
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
                "some), or the file is no memory dump" % self._config.PROFILE
            )
        except AttributeError:  # what Volatility raises where the list's head is not readable
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
        form = "%%-#%dx%%-#14x%%-#10x%%s\n" % wide
        if self._config.OWNER:
            titles += "  (Pid)   (Process)"
            form = form.replace("%s\n", "%-8s  %-6d  %s\n")
        outfd.write(titles + "\n" + "-" * (len(titles) + 2) + "\n")
        columns = len(Row._fields) if self._config.OWNER else 4
        for row in data:
            outfd.write(form % row[:columns])

    def unified_output(self, data):
        """Return the same rows for all other renderers."""
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
        """Yield (depth, values) of each row, as TreeGrid wants them."""
        for row in data:
            values = [
                Address(row.virtual),
                Address(row.physical),
                Hex(row.size),
                str(row.kernel),
            ]
            if self._config.OWNER:
                values += [row.pid, row.process]
            yield (0, values)
