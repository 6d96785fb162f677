#!/usr/bin/python3
"""Process 1 of a lab node: makes the machine's root writable and private, and starts the server.

Runs with `python3 -IS` and the standard library alone. The root it finds is the host's root,
read-only (hostfs). It lays a tmpfs over it (overlayfs), mounts what a running system has, moves
into it with pivot_root(2), configures the two network devices and starts `exec_server.py`. From
then on it only reaps orphans.

Parameters come from the kernel's command line, as environment variables: see `lab.node`.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import socket
import subprocess
import sys
import time

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 1, 2, 4, 8, 4096
MS_REC, MS_SHARED = 16384, 1 << 20
MNT_DETACH = 2
SYS_PIVOT_ROOT = 155
RB_POWER_OFF = 0x4321FEDC
CGROUP_CONTROLLERS = ("cpu", "memory", "pids", "io")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2), after making the mount point."""
    pathlib.Path(target).mkdir(parents=True, exist_ok=True)
    result = libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    check(result, f"mount {source} on {target}")


def enter_private_root() -> None:
    """Overlay a tmpfs on the host's root, which stays untouched below, and make it the root."""
    libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
    subprocess.run(["/sbin/modprobe", "overlay"], check=True)
    mount("tmpfs", "/mnt", "tmpfs", 0, "size=75%")
    for name in ("upper", "work", "root"):
        pathlib.Path("/mnt", name).mkdir()
    layers = "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work"
    mount("overlay", "/mnt/root", "overlay", 0, layers)
    os.chdir("/mnt/root")
    pathlib.Path("mnt").mkdir(exist_ok=True)
    check(libc.syscall(SYS_PIVOT_ROOT, b".", b"mnt"), "pivot_root")
    os.chdir("/")
    check(libc.umount2(b"/mnt", MNT_DETACH), "umount the old root")


def mount_system(share: str, project: str, cache: str) -> None:
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666")
    for path in ("/dev/shm", "/run", "/tmp"):
        mode = "755" if path == "/run" else "1777"
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    subtree = pathlib.Path("/sys/fs/cgroup/cgroup.subtree_control")
    subtree.write_text(" ".join(f"+{name}" for name in CGROUP_CONTROLLERS))
    for folder in (project, cache):
        if not pathlib.Path(folder).exists():  # in the host's /tmp, behind the node's own
            mount("none", folder, "hostfs", MS_RDONLY, folder)
    mount("none", share, "hostfs", 0, share)
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_SHARED), None), "share /")
    pathlib.Path("/run/lock").mkdir(exist_ok=True)
    for name, target in (("fd", "self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1")):
        link = pathlib.Path("/dev", name)
        if not link.is_symlink():
            link.symlink_to(f"/proc/{target}" if name == "fd" else f"/proc/self/{target}")


def configure_network(name: str, index: int) -> None:
    """eth0 is the data network, which tests cut; eth1 carries commands and is never cut."""
    socket.sethostname(name)
    pathlib.Path("/etc/hostname").write_text(f"{name}\n")
    pathlib.Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n10.77.0.{index} {name}\n")
    batch = (
        "link set lo up\n"
        f"link set vec0 name eth0\naddr add 10.77.0.{index}/24 dev eth0\nlink set eth0 up\n"
        f"link set vec1 name eth1\naddr add 10.78.0.{index}/24 dev eth1\nlink set eth1 up\n"
    )
    subprocess.run(["/sbin/ip", "-batch", "-"], input=batch.encode(), check=True)


def have_no_caches() -> None:
    """Disks as with power-loss protection: they are files of the host, and survive the node.

    Else each flush is an fsync of the host's, and DRBD 8.4 loses those that end while it freezes.
    """
    for cache in pathlib.Path("/sys/block").glob("ubd*/queue/write_cache"):
        cache.write_text("write through")


def start_udev() -> None:
    subprocess.run(["/lib/systemd/systemd-udevd", "--daemon"], check=True)
    subprocess.run(["/bin/udevadm", "trigger", "--subsystem-match=block"], check=True)
    subprocess.run(["/bin/udevadm", "settle", "--timeout=30"], check=True)


def reap_until(server: int) -> None:
    """Reap orphans for ever; the node ends when its server does."""
    while True:
        pid, _ = os.wait()
        if pid == server:
            return


def main() -> None:
    keys = ("NODE", "INDEX", "SHARE", "PROJECT", "CACHE", "UDEV")
    environment = {key: os.environ[key] for key in keys}
    enter_private_root()
    mount_system(environment["SHARE"], environment["PROJECT"], environment["CACHE"])
    configure_network(environment["NODE"], int(environment["INDEX"]))
    subprocess.run(["/sbin/modprobe", "-a", "dm-mod", "loop"], check=False)
    have_no_caches()
    if environment["UDEV"] == "1":
        start_udev()
    server = os.fork()
    if server == 0:
        # In the interpreter that runs already: another one takes 0.3 s to start here.
        sys.path.insert(0, environment["PROJECT"])
        from lab import exec_server

        exec_server.serve(int(environment["INDEX"]))
    reap_until(server)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        main()
    except Exception as error:
        print(f"lab: boot failed on {platform.release()}: {error!r}", flush=True)
        time.sleep(0.1)
    libc.syscall(169, 0xFEE1DEAD, 672274793, RB_POWER_OFF, None)
