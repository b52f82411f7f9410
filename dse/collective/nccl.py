"""The topology XML that NCCL reads and writes (``NCCL_TOPO_FILE``, ``NCCL_TOPO_DUMP_FILE``) as a network.

GPUs are NPUs; NVSwitches (together), PCIe switches, CPUs and network cards are switches. Bandwidths are those NCCL
itself reckons with: of NVLink by the compute capability, of PCIe by width and speed, of networks as the file says. The
file has no latencies but of networks: the rest are arguments.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from dse.collective.topology import Topology
from dse.errors import Fault, SpecError

GB, US = 1e9, 1e-6
# Bytes/s of one NVLink in one direction, by the least compute capability (NCCL, src/graph/topo.h).
NVLINK = {60: 18.0e9, 70: 20.0e9, 80: 20.0e9, 86: 12.0e9, 89: 20.0e9, 90: 20.6e9, 100: 40.1e9}
# Megabit/s a lane by the transfer rate; width times that over 80 is GB/s of PCIe as NCCL reckons.
PCIE = {"2.5": 15, "5": 30, "8": 60, "16": 120, "32": 240, "64": 480}
CPU_LINK = 10.0e9
NVSWITCH = "0x068000"


def from_xml(
    text: str,
    path: Path,
    hosts: int = 1,
    nvlink_latency: float = 0.7 * US,
    pcie_latency: float = 1.0 * US,
    network_latency: float = 2.0 * US,
) -> Topology:
    """Read the topology of a host; with ``hosts`` more than 1, of as many joined by a switch for each network card.

    Raises:
        SpecError: not such a file, or a value that does not fit.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _wrong(path, "XML", str(error)[:60], "must be well-formed", error.position[0]) from None
    if root.tag != "system":
        raise _wrong(path, "root", root.tag, "must be system (NCCL topology) or graphml")
    host = _Host(path, (nvlink_latency, pcie_latency, network_latency))
    cpus = root.findall("cpu")
    for cpu in cpus:
        host.nodes.append(("cpu", cpu))
    for i, cpu in enumerate(cpus):
        for j in range(i):
            host.cable(i, j, CPU_LINK, pcie_latency)
        for pci in cpu.findall("pci"):
            host.walk(pci, i)
        for nic in cpu.findall("nic"):
            host.card(nic, i, CPU_LINK)
    host.nvlinks()
    return host.topology(hosts)


def _wrong(path: Path, field: str, value: object, rule: str, line: int = 0) -> SpecError:
    return SpecError([Fault(field, str(value)[:80], rule, f"{path}:{line}" if line else str(path))])


class _Host:
    """Nodes and links of one host as they are found."""

    def __init__(self, path: Path, latencies: tuple[float, float, float]) -> None:
        self.path, self.latencies = path, latencies
        self.nodes: list[tuple[str, ElementTree.Element]] = []
        self.links: list[tuple[int, int, float, float]] = []
        self.bus: dict[str, int] = {}

    def cable(self, a: int, b: int, bandwidth: float, latency: float) -> None:
        self.links += [(a, b, bandwidth, latency), (b, a, bandwidth, latency)]

    def walk(self, pci: ElementTree.Element, above: int) -> None:
        """A PCIe device: a GPU, a network card or a switch with others below it."""
        gpu, nics = pci.find("gpu"), pci.findall("nic")
        speed = pci.get("link_speed", "").split(" ")[0].removesuffix(".0")
        width = self.number(pci, "link_width", 16)
        if speed not in PCIE and speed not in ("", "Unknown"):
            raise _wrong(self.path, "link_speed", pci.get("link_speed"), f"must be one of {', '.join(PCIE)} GT/s PCIe")
        bandwidth = (width or 16) * PCIE.get(speed, 60) / 80 * GB
        if nics:
            for nic in nics:
                self.card(nic, above, bandwidth)
            return
        here = len(self.nodes)
        self.nodes.append(("pci" if gpu is None else "gpu", pci if gpu is None else gpu))
        self.bus[pci.get("busid", "").lower()] = here
        self.cable(here, above, bandwidth, self.latencies[1])
        for below in pci.findall("pci"):
            self.walk(below, here)

    def card(self, nic: ElementTree.Element, above: int, bandwidth: float) -> None:
        """A network card; a port of it is a node with what the file says of it."""
        for net in nic.findall("net"):
            here = len(self.nodes)
            self.nodes.append(("net", net))
            self.cable(here, above, bandwidth, self.latencies[1])

    def nvlinks(self) -> None:
        """Links between GPUs, each listed at both of its ends, and to the NVSwitches, listed at the GPUs only."""
        switch = None
        for here, (kind, gpu) in list(enumerate(self.nodes)):
            if kind != "gpu":
                continue
            capability = self.number(gpu, "sm", 70)
            rate = NVLINK[max((sm for sm in NVLINK if sm <= capability), default=60)]
            for link in gpu.findall("nvlink"):
                bandwidth = self.number(link, "count", 1) * rate
                target = self.bus.get(link.get("target", "").lower())
                if link.get("tclass", "").lower() == NVSWITCH:
                    if switch is None:
                        switch = len(self.nodes)
                        self.nodes.append(("nvswitch", gpu))
                    self.cable(here, switch, bandwidth, self.latencies[0])
                elif target is not None:
                    self.links.append((here, target, bandwidth, self.latencies[0]))
                else:
                    raise _wrong(self.path, "nvlink target", link.get("target"), "must be a GPU's busid or an NVSwitch")

    def number(self, element: ElementTree.Element, key: str, usual: float) -> float:
        text = element.get(key, "")
        try:
            value = float(text) if text else float(usual)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e9:
            raise _wrong(self.path, f"{element.tag} {key}", text, "must be a number of 0 or more")
        return value

    def topology(self, hosts: int) -> Topology:
        """All hosts as one network: GPUs by their device number, then the rest; dead ends are left out."""
        gpus = sorted(
            (i for i, (kind, _) in enumerate(self.nodes) if kind == "gpu"),
            key=lambda i: self.number(self.nodes[i][1], "dev", i),
        )
        rest = [
            i for i, (kind, _) in enumerate(self.nodes) if kind not in ("gpu", "net") or (kind == "net" and hosts > 1)
        ]
        nets = [i for i in rest if self.nodes[i][0] == "net"]
        if not gpus:
            raise _wrong(self.path, "system", "", "must have at least 1 gpu")
        rows, kept = [], {*gpus, *rest}
        npus = hosts * len(gpus)
        for host in range(hosts):
            place = {v: host * len(gpus) + k for k, v in enumerate(gpus)}
            place |= {v: npus + host * len(rest) + k for k, v in enumerate(rest)}
            rows += [(place[a], place[b], *rest_of) for a, b, *rest_of in self.links if a in kept and b in kept]
            for k, net in enumerate(nets):
                element, rail = self.nodes[net][1], npus + hosts * len(rest) + k
                bandwidth = self.number(element, "speed", 100_000) * 1e6 / 8
                latency = self.number(element, "latency", 0.0) * US or self.latencies[2]
                rows += [(place[net], rail, bandwidth, latency), (rail, place[net], bandwidth, latency)]
        nodes = npus + hosts * len(rest) + len(nets)
        return Topology.of(rows, npus, nodes=nodes, name=self.path.stem)
