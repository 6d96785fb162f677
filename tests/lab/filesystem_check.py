"""What a file system's own checker says of a replicated volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab.replicated import KUBELET

if TYPE_CHECKING:
    from tests.lab.replicated import Service

# None of them changes anything.
_CHECKERS = {
    "ext4": "e2fsck -fn",
    "xfs": "xfs_repair -n",
    "btrfs": "btrfs check --readonly",
}


def check_filesystem(service: Service, name: str) -> None:
    """Its file system, where it has one, is without a fault; it is unmounted where it is served."""
    filesystem = service.capability.mount.fs_type
    if not filesystem:
        return
    node = service.node(name)
    node.sh(f"umount {KUBELET}/pod-{service.id} {service.staging}")
    top = f"/dev/mapper/xlss-{'crypt-' if service.secrets else ''}{service.id}"
    node.sh(f"{_CHECKERS[filesystem]} {top}")
