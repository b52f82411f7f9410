"""The device at hand: finding PyTorch, choosing and naming the device, its state while it is measured."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from dse.errors import DseError, Fault, SpecError
from dse.spec.catalogue import ids

DEVICES = ("auto", "cpu", "cuda")
MINIMUM = (2, 4)
# Whole names only: other boards and slices of the same chip have other peaks than the catalogue's entries.
NAMES = (
    (r"NVIDIA H100 80GB HBM3", "H100-80GB", "h100-80gb-sxm"),
    (r"NVIDIA H100 PCIe", "H100-80GB-PCIe", "h100-80gb-pcie"),
    (r"NVIDIA H200", "H200", "h200-141gb-sxm"),
    (r"NVIDIA H800", "H800", "h800-80gb-sxm"),
    (r"NVIDIA H20", "H20", "h20-96gb"),
    (r"NVIDIA GH200 480GB", "GH200-96GB", "gh200-96gb"),
    (r"NVIDIA B200", "B200", "b200-192gb"),
    (r"NVIDIA GB200", "GB200", "gb200-192gb"),
    (r"NVIDIA B300( SXM6 AC)?", "B300", "b300-288gb"),
    (r"NVIDIA GB300", "GB300", "gb300-288gb"),
    (r"NVIDIA L40S", "L40S", "l40s-48gb"),
    (r"(NVIDIA )?A100-SXM4?-80GB", "A100-80GB", "a100-80gb-sxm"),
    (r"(NVIDIA )?A100-SXM4?-40GB", "A100-40GB", "a100-40gb-sxm"),
    (r"(NVIDIA )?A100 80GB PCIe", "A100-80GB-PCIe", "a100-80gb-pcie"),
    (r"(NVIDIA )?A100-PCIE-40GB", "A100-40GB-PCIe", "a100-40gb-pcie"),
    (r"(NVIDIA |Tesla )?V100-SXM[23]-16GB", "V100-16GB", "v100-16gb-sxm"),
    (r"(NVIDIA |Tesla )?V100-SXM[23]-32GB", "V100-32GB", "v100-32gb-sxm"),
    (r"(AMD Instinct )?MI300X( OAM)?", "MI300X", "mi300x-192gb"),
    (r"(AMD Instinct )?MI325X( OAM)?", "MI325X", "mi325x-256gb"),
    (r"(AMD Instinct )?MI355X( OAM)?", "MI355X", "mi355x-288gb"),
)
QUERY = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")


class MeasureError(DseError):
    """Measuring is not possible here."""


def load_torch() -> Any:
    """The module ``torch``.

    Raises:
        MeasureError: it is missing, broken or too old; the message says how to get it.
    """
    try:
        import torch
    except ImportError as error:
        hint = "" if isinstance(error, ModuleNotFoundError) else f" ({str(error)[:200]})"
        raise MeasureError(f"measuring needs PyTorch: pip install 'dse[measure]'{hint}") from None
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < MINIMUM:
        raise MeasureError(f"measuring needs PyTorch 2.4 or newer, not {torch.__version__}: pip install 'dse[measure]'")
    return torch


def choose(torch: Any, name: str) -> Any:
    """The ``torch.device`` for one of ``DEVICES``.

    Raises:
        SpecError: there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError([Fault("device", "'cuda'", "PyTorch sees no such device here; use --device cpu")])
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def catalogue_id(name: str) -> tuple[str, str | None]:
    """Short name, as in the measured tables, and catalogue id (None: not in the catalogue) of a device."""
    for pattern, short, entry in NAMES:
        if re.fullmatch(pattern, name.strip()):
            return short, entry if entry in ids("accelerator") else None
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-")[:60] or "device", None


def describe(torch: Any, device: Any) -> dict[str, Any]:
    """What a table of measurements must say of its device; sizes in B."""
    details = _describe_cuda(torch) if device.type == "cuda" else _describe_cpu(torch)
    short, entry = catalogue_id(details["name"])
    return {"gpu": short, "catalogue": entry, "type": device.type, "torch": str(torch.__version__), **details}


def _describe_cuda(torch: Any) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    # Not every release reports the size of the last-level cache; 50 MiB is that of the largest common one.
    cache = getattr(properties, "L2_cache_size", 0) or 50 * 2**20
    return {
        "name": properties.name,
        "cores": properties.multi_processor_count,
        "cache": int(cache),
        "memory": int(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
        "runtime": str(torch.version.cuda or torch.version.hip),
        "driver": str((_smi(torch, "driver_version") or {}).get("driver_version", "unknown")),
    }


def _describe_cpu(torch: Any) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    info = _text("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    threads = int(torch.get_num_threads())
    total = re.search(r"^MemTotal:\s*(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return {
        "name": f"{found.group(1).strip() if found else name} x{threads}",
        "cores": threads,
        "cache": _last_cache(),
        "memory": int(total.group(1)) * 1024 if total else 0,
        "capability": str(torch.backends.cpu.get_cpu_capability()),
        "runtime": "cpu",
        "driver": f"{platform.system()} {platform.release()}",
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _last_cache() -> int:
    """Size of the largest CPU cache in B; 32 MiB where the system does not say."""
    sizes = [_text(str(path)).strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    known = [int(text[:-1]) * 1024 for text in sizes if re.fullmatch(r"\d+K", text)]
    return max(known, default=32 * 2**20)


def dtypes(torch: Any, device: Any) -> list[str]:
    """Data types measured by default: those that the device runs natively or that training falls back to."""
    if device.type != "cuda":
        return ["bf16", "fp16", "fp32"]
    major_minor = torch.cuda.get_device_capability(0)
    found = ["bf16", "fp16", "fp32"] if torch.version.hip or major_minor >= (8, 0) else ["fp16", "fp32"]
    if not torch.version.hip and major_minor >= (8, 0):
        found.insert(2, "tf32")
    if major_minor >= ((9, 4) if torch.version.hip else (8, 9)):
        found.append("fp8")
    return found


def conditions(torch: Any, device: Any) -> dict[str, Any]:
    """Clock, power and temperature (GPU), or load (CPU), at this moment; MHz, W, °C."""
    if device.type == "cuda":
        return _smi(torch, *QUERY) or {}
    clocks = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _text("/proc/cpuinfo"), re.MULTILINE)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"load_1min": load, **({"clock_mhz": max(clocks)} if clocks else {})}


def _smi(torch: Any, *fields: str) -> dict[str, Any] | None:
    """Ask nvidia-smi; reads only, and its absence is no fault."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    # The driver numbers devices by itself, whatever CUDA_VISIBLE_DEVICES says: only the UUID is sure.
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    which = ["-i", f"GPU-{uuid}"] if uuid else []
    command = [program, *which, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.partition("\n")[0].split(",")]
    if done.returncode or len(values) != len(fields):
        return None
    return {name: _number(value) for name, value in zip(fields, values, strict=True)}


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
