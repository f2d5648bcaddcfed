"""A network of loopback alone (Linux): the kernel counts what tries to leave it.

This covers the sender as well, which runs isolated, so without the guard in `guard/`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000  # from sched.h
PR_SET_CHILD_SUBREAPER = 36  # from sys/prctl.h


def enter() -> None:
    """Move this process into a network namespace of its own. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("network namespaces exist only on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    subprocess.run(["ip", "-Version"], check=True, capture_output=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends: of every sender."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def attempts() -> int:
    """Return how many packets found no way out of this namespace so far."""
    names, values = (
        line.split()
        for line in Path("/proc/net/snmp").read_text().splitlines()
        if line.startswith("Ip:")
    )
    snmp6 = Path("/proc/net/snmp6")
    lines = snmp6.read_text().splitlines() if snmp6.exists() else []
    version6 = dict(line.split() for line in lines)
    no_route = values[names.index("OutNoRoutes")]
    return int(no_route) + int(version6.get("Ip6OutNoRoutes", 0))
