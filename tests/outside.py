"""The suite's network on Linux: a namespace with loopback alone, where the kernel counts what tries to leave.

This holds for every process, also for a sender, which runs without `site` and so without the guard of `guard/`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000  # sched.h
COUNTERS = Path("/proc/net/snmp"), Path("/proc/net/snmp6")  # of the namespace of the process that reads them


def close() -> None:
    """Put this thread, and all that it starts from now on, behind the wall; OSError where that cannot be done."""
    if sys.platform != "linux":
        raise OSError("network namespaces are Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    subprocess.run(["ip", "-Version"], check=True, capture_output=True)  # before there is no way back
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def attempts() -> int:
    """How often a connection or a datagram found no way out, over IPv4 and IPv6, since the namespace was made."""
    names, values = (line.split() for line in COUNTERS[0].read_text().splitlines() if line.startswith("Ip:"))
    version6 = dict(line.split() for line in COUNTERS[1].read_text().splitlines()) if COUNTERS[1].exists() else {}
    return int(values[names.index("OutNoRoutes")]) + int(version6.get("Ip6OutNoRoutes", 0))
