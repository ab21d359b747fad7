"""The bytes with which files of each format begin.

They are in a module of their own, so that opening.py loads only the reader that a file needs.
"""

LIME = b"EMiL"
AVML = b"AVML"
ELF = b"\x7fELF"
CRASH_32, CRASH_64 = b"PAGEDUMP", b"PAGEDU64"
KDUMP, DISKDUMP = b"KDUMP   ", b"DISKDUMP"
FLATTENED = b"makedumpfile"
HIBERNATION = (b"hibr", b"HIBR", b"wake", b"WAKE", b"rstr", b"RSTR")
VMWARE = tuple(
    number.to_bytes(4, "little")
    for number in (0xBED0BED0, 0xBED2BED0, 0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2)
)
QEMU = b"QEVM\0\0\0\x03"
LIBVIRT = b"LibvirtQemudSave"
LIBVIRT_PART = b"LibvirtQemudPart"
"""The beginning of a machine's file that libvirt did not finish saving."""
VMA = b"VMA\0"
HYPERV = b"\x14\x20\x28\x01"
EWF = b"EVF\x09\r\n\xff\0"
AD1 = b"ADSEGMENTEDFILE\0"
SNAPPY = b"\xff\x06\0\0sNaPpY"
S2 = b"\xff\x06\0\0S2sTwO"
ZIP = b"PK\x03\x04"
"""An AFF4 container is a zip file, but few zip files are AFF4: see aff4.is_container."""
