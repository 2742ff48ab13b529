"""What root may still do in the air gap (linux/capability.h): everything about files, users and processes of its own.

Not what leads around a layer: other processes' memory, the network's settings, raw packets, mounts, devices, the
kernel's own code.
"""

from __future__ import annotations

from typing import Final

_KEPT: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,  # ports below 1024, of the inside
    "SYS_CHROOT": 18,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "SETFCAP": 31,
}
KEPT: Final = frozenset(_KEPT.values())
