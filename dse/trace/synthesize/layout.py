"""Who plays which role and who meets whom; and the same with more or fewer ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Ints
from dse.trace.synthesize.events import spans
from dse.trace.synthesize.job import WORLD, Job
from dse.trace.synthesize.tokens import Scale


@dataclass
class Layout:
    """Ranks of one trace set.

    Attributes:
        roles: int64 [R], of each rank.
        families: name -> groups as ranks [groups, size].
        offsets: (role, role of the peer) -> offsets of rank.
        tiers: names of memories.
        scale: how large things are.
        nodes: of all roles together.
        number: of the trace set among those learnt from.
    """

    roles: Ints
    families: dict[str, Ints]
    offsets: dict[tuple[int, int], list[int]]
    tiers: tuple[str, ...]
    scale: Scale
    nodes: int
    number: int = -1

    @classmethod
    def of(cls, job: Job, tiers: tuple[str, ...] = (), number: int = -1) -> Layout:
        """That of a job."""
        return cls(job.roles, job.families, job.offsets, tiers, job.scale, job.nodes, number)

    @property
    def ranks(self) -> int:
        return len(self.roles)

    @property
    def style(self) -> tuple[Any, ...]:
        """What a text depends on: how many roles there are, and which families of groups."""
        return int(self.roles.max()) + 1, tuple(sorted(self.families))

    @property
    def shape(self) -> tuple[Any, ...]:
        """Equal for trace sets that are laid out in the same way."""
        return self.ranks, tuple((name, table.shape) for name, table in sorted(self.families.items()))

    def spans(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """(family, role) -> roles that its collectives take part in; only where all of their ranks are in a group."""
        out = {(WORLD, role): tuple(range(int(self.roles.max()) + 1)) for role in np.unique(self.roles).tolist()}
        for name, table in self.families.items():
            inside = np.zeros(self.ranks, bool)
            inside[table] = True
            whole = {role for role in np.unique(self.roles).tolist() if inside[self.roles == role].all()}
            for span in spans(table, self.roles):
                if whole.issuperset(span):
                    out.update(dict.fromkeys(((name, role) for role in span), span))
        return out

    def resized(self, ranks: int) -> Layout:
        """The same with another number of ranks: along one family of groups, which become larger or smaller.

        The family is the first that fits of: sparse ones (gradients) before dense ones; all ranks where they all have
        one role and no groups; copies of the whole job side by side.

        Raises:
            SpecError: no way fits; the message names the step in which ranks can grow.
        """
        if ranks == self.ranks:
            return self
        steps = {}
        for name in sorted(self.families, key=lambda name: (not name.startswith("sparse"), name)):
            table = self.families[name]
            if table.shape[1] > 1 and _regular(table, self.ranks):
                steps[name] = (int(table[0, 1] - table[0, 0]), table.shape[1])
        if not self.families and int(self.roles.max()) == 0 and not self.offsets:
            steps[WORLD] = (1, self.ranks)
        steps["copies"] = (self.ranks, 1)
        for stride, size in steps.values():
            if ranks % (self.ranks // size) == 0:
                found = _stretch(self, stride, size, ranks * size // self.ranks)
                if found is not None:
                    return found
        least = min(self.ranks // size for _, size in steps.values())
        raise SpecError([Fault("ranks", str(ranks), f"must be a multiple of {least} (learnt from {self.ranks} ranks)")])

    def to_dict(self) -> dict[str, Any]:
        """For JSON; roles as runs, groups as (stride, size) where they fill the ranks regularly."""
        edges = np.flatnonzero(np.diff(self.roles, prepend=-1))
        runs = np.diff(edges, append=self.ranks)
        groups = {
            name: [int(t[0, 1] - t[0, 0]), t.shape[1]] if t.shape[1] > 1 and _regular(t, self.ranks) else t.tolist()
            for name, t in self.families.items()
        }
        return {
            "roles": [self.roles[edges].tolist(), runs.tolist()],
            "families": groups,
            "offsets": [[*pair, found] for pair, found in self.offsets.items()],
            "tiers": list(self.tiers),
            "scale": asdict(self.scale),
            "nodes": self.nodes,
            "number": self.number,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layout:
        """What :meth:`to_dict` gave, after JSON."""
        roles = np.repeat(*(np.array(x, np.int64) for x in data["roles"]))
        families = {
            name: np.array(t, np.int64) if isinstance(t[0], list) else _grid(len(roles), *t)
            for name, t in data["families"].items()
        }
        offsets = {(a, b): found for a, b, found in data["offsets"]}
        return cls(
            roles, families, offsets, tuple(data["tiers"]), Scale(**data["scale"]), data["nodes"], data["number"]
        )


def _grid(ranks: int, stride: int, size: int) -> Ints:
    """Groups of ``size`` ranks ``stride`` apart, that together are all ranks; by their first ranks."""
    table = np.arange(ranks).reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)
    return table


def _regular(table: Ints, ranks: int) -> bool:
    stride, size = int(table[0, 1] - table[0, 0]), table.shape[1]
    if stride < 1 or ranks % (stride * size) or table.size != ranks:
        return False
    return bool((table == _grid(ranks, stride, size)).all())


def _stretch(old: Layout, stride: int, size: int, wanted: int) -> Layout | None:
    """Rank (outer, a, inner) with a in ``size`` places ``stride`` apart gets ``wanted`` places; None where groups or
    peers do not go with that."""
    ranks = old.ranks // size * wanted
    new = np.arange(ranks)
    low, a, high = new % stride, new // stride % wanted, new // stride // wanted
    source = low + (a % size) * stride + high * stride * size
    roles = old.roles[source]
    if len(np.unique(roles)) != int(old.roles.max()) + 1:
        return None

    def place(rank: Any, at: Any) -> Any:
        """The new rank of an old one, at place ``at`` of the stretched axis."""
        return rank % stride + at * stride + rank // (stride * size) * stride * wanted

    families = {}
    for name, table in old.families.items():
        along = table // stride % size
        if (along == along[:, :1]).all():  # across: there is one such group at each place
            rows = [place(table[along[:, 0] == at % size], at) for at in range(wanted)]
            families[name] = np.concatenate(rows)
        else:  # along: members at all places, the same at each
            across = np.unique(table % stride + table // (stride * size) * stride, axis=0)
            lengths = {len(np.unique(row)) * size for row in across}
            if lengths != {table.shape[1]}:
                return None
            firsts = np.stack([np.unique(t[t // stride % size == 0]) for t in table])
            grown = [place(firsts, at) for at in range(wanted)]
            families[name] = np.sort(np.concatenate(grown, axis=1), axis=1)
        families[name] = families[name][np.argsort(families[name][:, 0], kind="stable")]
    offsets = {}
    for (role, peer), found in old.offsets.items():
        members = np.flatnonzero(old.roles == role)
        moved = []
        for offset in found:
            at = members // stride % size
            there = members + offset
            if ((there < 0) | (there >= old.ranks)).any() or (there // stride % size != at).any():
                return None
            step = np.unique(place(there, at) - place(members, at))
            if len(step) > 1:
                return None
            moved.append(int(step[0]))
        offsets[role, peer] = moved
    return Layout(roles, families, offsets, old.tiers, old.scale, old.nodes, old.number)
