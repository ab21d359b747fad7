"""Write the structure layouts that tests/synth needs, from Volatility 2's own profile objects.

    vol.py --plugins=tests/volatility2 -f README.md --profile=WinXPSP2x86 profilelayouts \
        > tests/synth/profiles.json

(Volatility wants some file and some profile; neither is looked at.)

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.addrspace as addrspace
import volatility.obj as obj
import volatility.plugins.common as common
import volatility.registry as registry

# Each structure with the members that a synthetic dump has. A layout leaves out members that
# its version lacks: the writer then does not write them.
MEMBERS = {
    "_EPROCESS": [
        "ActiveProcessLinks",
        "ActiveThreads",
        "CreateTime",
        "ExitStatus",
        "ExitTime",
        "ImageFileName",
        "InheritedFromUniqueProcessId",
        "ObjectTable",
        "Peb",
        "SeAuditProcessCreationInfo",
        "SectionBaseAddress",
        "Session",
        "ThreadListHead",
        "Token",
        "UniqueProcessId",
        "VadRoot",
        "WoW64Process",
        "Wow64Process",
    ],
    "_KPROCESS": ["DirectoryTableBase", "ThreadListHead", "UserDirectoryTableBase"],
    "_ETHREAD": ["Cid", "StartAddress", "ThreadListEntry", "ThreadsProcess", "CreateTime"],
    "_KTHREAD": ["Process", "ThreadListEntry"],
    "_HANDLE_TABLE": ["HandleCount", "UniqueProcessId", "HandleTableList"],
    "_MM_SESSION_SPACE": ["SessionId"],
    "_OBJECT_HEADER": ["Body", "InfoMask", "NameInfoOffset", "PointerCount", "Type", "TypeIndex"],
    "_OBJECT_HEADER_CREATOR_INFO": [],
    "_OBJECT_HEADER_NAME_INFO": ["Directory", "Name"],
    "_POOL_HEADER": ["PoolTag", "BlockSize", "PoolType"],
    "_KPCR": ["KdVersionBlock", "Prcb", "PrcbData", "Self", "SelfPcr", "CurrentPrcb"],
    "_KPRCB": ["Number", "CurrentThread", "IdleThread"],
    "_DBGKD_GET_VERSION64": [
        "DebuggerDataList",
        "KernBase",
        "MajorVersion",
        "MinorVersion",
        "PsLoadedModuleList",
    ],
    "_KUSER_SHARED_DATA": [
        "NtMajorVersion",
        "NtMinorVersion",
        "Reserved1",
        "SystemTime",
        "TimeZoneBias",
    ],
    "_LDR_DATA_TABLE_ENTRY": [
        "BaseDllName",
        "DllBase",
        "EntryPoint",
        "FullDllName",
        "InLoadOrderLinks",
        "SizeOfImage",
    ],
    "_PEB": ["ImageBaseAddress", "NumberOfHeaps", "ProcessHeap", "ProcessHeaps"],
    "_TEB": ["NtTib", "ProcessEnvironmentBlock"],
    "_NT_TIB": ["Self", "StackBase", "StackLimit"],
    # Since Vista a heap begins with its first segment.
    "_HEAP": ["Heap", "SegmentSignature", "Signature"],
    "_HEAP_SEGMENT": ["Heap", "SegmentSignature", "Signature"],
    "_CONTROL_AREA": ["FilePointer", "Segment", "u"],
    "_SUBSECTION": [
        "ControlArea",
        "NextSubsection",
        "NumberOfFullSectors",
        "PtesInSubsection",
        "StartingSector",
        "SubsectionBase",
        "u",
    ],
    "_SEGMENT": ["ControlArea"],
    "_FILE_OBJECT": [
        "DeletePending",
        "DeviceObject",
        "FileName",
        "SectionObjectPointer",
        "Size",
        "Type",
    ],
    "_SECTION_OBJECT_POINTERS": ["DataSectionObject", "ImageSectionObject"],
    "_DEVICE_OBJECT": ["Type"],
    # Since Windows 8 a _MMVAD begins with a _MMVAD_SHORT.
    "_MMVAD": ["ControlArea", "FirstPrototypePte", "LastContiguousPte", "Subsection"],
    "_MMVAD_SHORT": [
        "CommitChargeHigh",
        "EndingVpn",
        "EndingVpnHigh",
        "LeftChild",
        "Parent",
        "RightChild",
        "StartingVpn",
        "StartingVpnHigh",
        "VadNode",
        "u",
        "u1",
    ],
    "_MM_AVL_TABLE": ["BalancedRoot", "DepthOfTree", "NodeHint"],
    "_MM_AVL_NODE": ["LeftChild", "RightChild", "u1"],
    "_RTL_BALANCED_NODE": ["Left", "ParentValue", "Right"],
}

# Structures of bit fields, with the members that a synthetic dump has.
BIT_FIELDS = {
    "_MMPTE_SUBSECTION": [
        "Prototype",
        "SubsectionAddress",
        "SubsectionAddressHigh",
        "SubsectionAddressLow",
        "WhichPool",
    ],
    "_MMSUBSECTION_FLAGS": ["SectorEndOffset", "StartingSector4132"],
    "_MMVAD_FLAGS": [
        "CommitCharge",
        "ImageMap",
        "LargePages",
        "MemCommit",
        "PhysicalMapping",
        "PrivateMemory",
        "Protection",
        "VadType",
    ],
    "_MMVAD_FLAGS1": ["CommitCharge", "MemCommit"],
}

# Members of a page frame's record that a synthetic dump writes, by the ends of their paths.
# Some profiles have older names for them.
FRAME_RECORD = {
    "PteAddress": ["PteAddress"],
    "OriginalPte": ["OriginalPte"],
    "ShareCount": ["u2.ShareCount"],
    "ReferenceCount": ["u3.ReferenceCount", "u3.e2.ReferenceCount"],
    "PageLocation": ["u3.e1.PageLocation"],
    "Modified": ["u3.e1.Modified"],
    "Priority": ["u3.e1.Priority", "u3.e3.Priority", "u4.Priority"],
    "KernelStack": ["u3.e1.KernelStack", "u4.KernelStack"],
    "PteFrame": ["u4.PteFrame"],
    "PrototypePte": ["u4.PrototypePte", "u3.e1.PrototypePte"],
    "AweAllocation": ["u4.AweAllocation"],
}


class ProfileLayouts(common.AbstractWindowsCommand):
    """Structure offsets and signatures of every Windows profile, as JSON"""

    def calculate(self):
        """Yield (profile name, layout) for every Windows profile, sorted by name."""
        profiles = registry.get_plugin_classes(obj.Profile)
        for name in sorted(profiles):
            if profiles[name]._md_os != "windows":
                continue
            self._config.update("PROFILE", name)
            yield name, self.layout(addrspace.BufferAddressSpace(self._config))

    @staticmethod
    def layout(space):
        """Return one profile's version, signatures and structures."""
        profile, magic = space.profile, obj.VolMagic(space)
        structures = {}
        for structure, members in sorted(MEMBERS.items()):
            if profile.has_type(structure):
                known = profile.vtypes[structure][1]
                structures[structure] = {
                    "size": profile.get_obj_size(structure),
                    "members": dict(
                        (member, profile.get_obj_offset(structure, member))
                        for member in members
                        if member in known
                    ),
                }
        record = dict(ProfileLayouts.bits_of(profile, "_MMPFN", 0, ""))
        frame_record = {}
        for name, paths in sorted(FRAME_RECORD.items()):
            for path in paths:
                if path in record and name not in frame_record:
                    frame_record[name] = record[path]
        bit_fields = {}
        for structure, members in sorted(BIT_FIELDS.items()):
            if not profile.has_type(structure):
                continue
            known = dict(ProfileLayouts.bits_of(profile, structure, 0, ""))
            bit_fields[structure] = dict((m, known[m]) for m in members if m in known)
        metadata = profile.metadata
        return {
            "bits": 64 if metadata.get("memory_model") == "64bit" else 32,
            "version": [metadata.get("major"), metadata.get("minor")],
            "build": metadata.get("build", 0),
            "process_signature": str(magic.DTBSignature.v()).encode("hex"),
            "kdbg_header": str(magic.KDBGHeader.v()).encode("hex"),
            "structures": structures,
            "bit_fields": bit_fields,
            # The kind of this member: a pointer on Windows XP.
            "vad_root": profile.vtypes["_EPROCESS"][1]["VadRoot"][1][0],
            "frame_record": {"size": profile.get_obj_size("_MMPFN"), "members": frame_record},
        }

    @staticmethod
    def bits_of(profile, structure, offset, path):
        """Yield (path, (byte, first bit, end)) of all members; of whole words bits 0 to 0."""
        for name, (inside, described) in profile.vtypes[structure][1].items():
            kind, at = described[0], offset + (inside if isinstance(inside, int) else 0)
            if kind == "BitField":
                bits = described[1]
                yield path + name, (at, bits["start_bit"], bits["end_bit"])
            elif kind in profile.vtypes and not kind.startswith(("_MMPTE", "_LIST", "_RTL")):
                inner = ProfileLayouts.bits_of(profile, kind, at, path + name + ".")
                for found in inner:
                    yield found
            else:
                yield path + name, (at, 0, 0)

    def render_text(self, outfd, data):
        """One JSON object: profile name to layout, one profile a line."""
        rows = ['"%s": %s' % (name, json.dumps(layout, sort_keys=True)) for name, layout in data]
        outfd.write("{\n" + ",\n".join(rows) + "\n}\n")
