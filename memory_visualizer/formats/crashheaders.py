"""The headers of Windows crash dumps, with the field names of other programs.

The names are those of Volatility 3 (`crash.json`, `crash64.json`, `crash_common.json`) and of
kdmp-parser (kdmp-parser-structs.h), which alone has the header of the ranges.
"""

import numpy as np

from memory_visualizer.formats.records import RecordType

RUN_32: RecordType = np.dtype([("BasePage", "<u4"), ("PageCount", "<u4")])
RUN_64: RecordType = np.dtype([("BasePage", "<u8"), ("PageCount", "<u8")])
"""PHYSICAL_MEMORY_RUN"""

_MEMORY_32 = np.dtype(
    [
        ("NumberOfRuns", "<u4"),
        ("NumberOfPages", "<u4"),
        ("Run", RUN_32, 86),
        ("Padding", "V4"),
    ]
)
_MEMORY_64 = np.dtype(
    [
        ("NumberOfRuns", "<u4"),
        ("Padding", "V4"),
        ("NumberOfPages", "<u8"),
        ("Run", RUN_64, 43),
    ]
)
"""PHYSICAL_MEMORY_DESCRIPTOR, with as many runs as the header has room for."""

HEADER_32: RecordType = np.dtype(
    [
        ("Signature", "S4"),
        ("ValidDump", "S4"),
        ("MajorVersion", "<u4"),
        ("MinorVersion", "<u4"),
        ("DirectoryTableBase", "<u4"),
        ("PfnDataBase", "<u4"),
        ("PsLoadedModuleList", "<u4"),
        ("PsActiveProcessHead", "<u4"),
        ("MachineImageType", "<u4"),
        ("NumberProcessors", "<u4"),
        ("BugCheckCode", "<u4"),
        ("BugCheckCodeParameter", "<u4", 4),
        ("VersionUser", "V32"),
        ("PaeEnabled", "u1"),
        ("KdSecondaryVersion", "u1"),
        ("VersionUser2", "V2"),
        ("KdDebuggerDataBlock", "<u4"),
        ("PhysicalMemoryBlockBuffer", _MEMORY_32),
        ("ContextRecord", "V1200"),
        ("Exception", "V80"),
        ("Comment", "V128"),
        ("Reserved0", "V1768"),
        ("DumpType", "<u4"),
        ("MiniDumpFields", "<u4"),
        ("SecondaryDataState", "<u4"),
        ("ProductType", "<u4"),
        ("SuiteMask", "<u4"),
        ("WriterStatus", "<u4"),
        ("RequiredDumpSpace", "<u8"),
        ("Reserved2", "V16"),
        ("SystemUpTime", "<u8"),
        ("SystemTime", "<u8"),
        ("Reserved3", "V56"),
    ]
)

HEADER_64: RecordType = np.dtype(
    [
        ("Signature", "S4"),
        ("ValidDump", "S4"),
        ("MajorVersion", "<u4"),
        ("MinorVersion", "<u4"),
        ("DirectoryTableBase", "<u8"),
        ("PfnDataBase", "<u8"),
        ("PsLoadedModuleList", "<u8"),
        ("PsActiveProcessHead", "<u8"),
        ("MachineImageType", "<u4"),
        ("NumberProcessors", "<u4"),
        ("BugCheckCode", "<u4"),
        ("Padding0", "V4"),
        ("BugCheckCodeParameter", "<u8", 4),
        ("VersionUser", "V32"),
        ("KdDebuggerDataBlock", "<u8"),
        ("PhysicalMemoryBlockBuffer", _MEMORY_64),
        ("ContextRecord", "V3000"),
        ("Exception", "V152"),
        ("DumpType", "<u4"),
        ("Padding4", "V4"),
        ("RequiredDumpSpace", "<u8"),
        ("SystemTime", "<u8"),
        ("Comment", "V128"),
        ("SystemUpTime", "<u8"),
        ("MiniDumpFields", "<u4"),
        ("SecondaryDataState", "<u4"),
        ("ProductType", "<u4"),
        ("SuiteMask", "<u4"),
        ("WriterStatus", "<u4"),
        ("Unused1", "u1"),
        ("KdSecondaryVersion", "u1"),
        ("Unused2", "V2"),
        ("Reserved0", "V4016"),
    ]
)

BITMAP_HEADER: RecordType = np.dtype(
    [
        ("Signature", "S4"),
        ("ValidDump", "S4"),
        ("Padding0", "V24"),
        ("FirstPage", "<u8"),  # its place in the file
        ("TotalPresentPages", "<u8"),
        ("Pages", "<u8"),  # bits
    ]
)
"""BMP_HEADER64 (_SUMMARY_DUMP); the bitmap follows."""

RANGES_HEADER: RecordType = np.dtype(
    [
        ("Marker", "<u4"),
        ("Signature", "S4"),
        ("ValidDump", "S4"),
        ("Padding0", "V4"),
        ("MetadataSize", "<u8"),
        ("FirstPageOffset", "<u8"),
        ("NumberOfRanges", "<u4"),  # only complete dumps have this field and the next two
        ("Padding1", "V4"),
        ("TotalNumberOfPages", "<u8"),
    ]
)
"""RDMP_HEADER64; the ranges, each a RUN_64, follow."""
