"""Synthetic memory dumps with their truth.

No real Windows dump can be shipped with the tests, so they write their own: a raw image of physical
memory with Windows' layout, and beside it the truth about every page, which is noted when the page
gets an owner, and never found by walking the result.

    python -m tests.synth Win7SP1x64 dumps/win7.raw --size 64M
"""

from tests.synth.profiles import Profile, builds, profiles
from tests.synth.truth import KERNEL, Process, Truth
from tests.synth.windows import GIB, MIB, forge

__all__ = ["GIB", "KERNEL", "MIB", "Process", "Profile", "Truth", "builds", "forge", "profiles"]
