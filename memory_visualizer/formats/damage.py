"""Damage of a dump: an error, or a remark if the user wants to see the rest."""

from memory_visualizer.errors import DamagedInputError


def report_damage(sentence: str, remarks: list[str], *, lenient: bool, then: str = "") -> None:
    """Raise DamagedInputError; if `lenient`, add a remark instead.

    `then` tells in the remark how this program continues.
    """
    if not lenient:
        raise DamagedInputError(sentence)
    remarks.append(f"{sentence}; {then}" if then else sentence)
