"""The errors of ``dse``. Each says what is wrong, where, and what would be right; the CLI prints them bare."""

from __future__ import annotations

from dataclasses import dataclass


class DseError(Exception):
    """Base of every error a user can cause. The CLI prints the message and exits with code 2."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a specification: where it stands, what stands there, and the rule it breaks."""

    path: str
    value: str
    rule: str
    location: str = ""

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        shown = f" = {self.value}" if self.value else ""
        return f"{where}{self.path}{shown}: {self.rule}"


class SpecError(DseError):
    """A specification that breaks its rules; carries every fault found, not only the first."""

    def __init__(self, faults: list[Fault] | str) -> None:
        self.faults = [Fault("input", "", faults)] if isinstance(faults, str) else list(faults)
        if isinstance(faults, str):
            super().__init__(faults)
        else:
            count = len(self.faults)
            head = f"{count} faults\n  " if count > 1 else ""
            super().__init__(head + "\n  ".join(str(fault) for fault in self.faults))


class InfeasibleDesign(DseError):
    """No design satisfies the rules; the message names the rules that fail and by how much."""


class StudyError(DseError):
    """A study, export or reproduction that cannot be carried out."""
