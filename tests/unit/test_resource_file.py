"""Resource files of both dialects, the model's checks, and the choice of minors and ports."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from replication import resource_file
from replication.model import Dialect, Replica, Resource, Tuning

SECRET = "0123456789abcdefSECRET"
REPLICAS = (
    Replica("node-a", 0, "10.0.0.1", "/dev/mapper/data-1", "/dev/mapper/meta-1"),
    Replica("node-b", 1, "10.0.0.2", "/dev/mapper/data-2", "/dev/mapper/meta-2"),
)
OLD = Resource("v0a1b", 3, 7003, SECRET, REPLICAS, tuning=Tuning(discard_granularity_bytes=65536))
NEW = dataclasses.replace(OLD, dialect=Dialect.V9, max_peers=3)

GOLDEN_84 = """\
resource v0a1b {
	options {
		on-no-data-accessible suspend-io;
	}
	disk {
		on-io-error detach;
		fencing resource-and-stonith;
		resync-rate 102400k;
		c-max-rate 102400k;
		c-min-rate 25600k;
		c-fill-target 1M;
		rs-discard-granularity 65536;
	}
	net {
		protocol C;
		cram-hmac-alg sha256;
		shared-secret "0123456789abcdefSECRET";
		after-sb-0pri disconnect;
		after-sb-1pri disconnect;
		after-sb-2pri disconnect;
		rr-conflict disconnect;
		timeout 9;
		ping-int 1;
		ping-timeout 5;
		connect-int 1;
		ko-count 7;
		verify-alg sha256;
		csums-alg sha256;
	}
	on node-a {
		address ipv4 10.0.0.1:7003;
		volume 0 {
			device minor 3;
			disk /dev/mapper/data-1;
			flexible-meta-disk /dev/mapper/meta-1;
		}
	}
	on node-b {
		address ipv4 10.0.0.2:7003;
		volume 0 {
			device minor 3;
			disk /dev/mapper/data-2;
			flexible-meta-disk /dev/mapper/meta-2;
		}
	}
}
"""

GOLDEN_9 = (
    GOLDEN_84.replace("\t\tfencing resource-and-stonith;\n", "")
    .replace("protocol C;\n", "protocol C;\n\t\tfencing resource-and-stonith;\n")
    .replace("flexible-meta-disk", "meta-disk")
    .replace("on node-a {\n", "on node-a {\n\t\tnode-id 0;\n")
    .replace("on node-b {\n", "on node-b {\n\t\tnode-id 1;\n")
    .replace("options {\n", "options {\n\t\tauto-promote no;\n\t\tquorum off;\n", 1)
    .removesuffix("}\n")
    + "\tconnection-mesh {\n\t\thosts node-a node-b;\n\t}\n}\n"
)


@pytest.mark.parametrize(("resource", "golden"), [(OLD, GOLDEN_84), (NEW, GOLDEN_9)])
def test_the_same_model_gives_the_same_text(resource: Resource, golden: str) -> None:
    assert resource_file.text(resource) == golden


def test_addresses_of_ipv6_are_written_with_brackets() -> None:
    replicas = tuple(
        dataclasses.replace(one, address=f"fd00::{one.node_id + 1}") for one in REPLICAS
    )
    text = resource_file.text(dataclasses.replace(OLD, replicas=replicas))
    assert "address ipv6 [fd00::1]:7003;" in text


@pytest.mark.skipif(shutil.which("drbdadm") is None, reason="drbd-utils are not installed")
def test_drbdadm_reads_back_what_was_written(tmp_path: Path) -> None:
    # Without a module, drbdadm speaks the dialect of DRBD 9; the other is read in a lab node.
    path = resource_file.write(NEW, tmp_path)
    done = subprocess.run(
        ["drbdadm", "-c", str(path), "dump", NEW.name],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "__DRBD_NODE__": "node-b"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = {" ".join(line.split()) for line in done.stdout.splitlines()}
    words = resource_file.disk_options(NEW) + resource_file.net_options(NEW)
    assert said >= {f"{word} {value};".replace('"', "") for word, value in words}
    assert {"auto-promote no;", "quorum off;", "node-id 1;"} <= said


def test_a_file_is_replaced_whole_and_only_for_root(tmp_path: Path) -> None:
    folder = tmp_path / "drbd"
    resource_file.write(OLD, folder)
    path = resource_file.write(NEW, folder)
    assert path.read_text() == GOLDEN_9
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    resource_file.remove(OLD.name, folder)
    resource_file.remove(OLD.name, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a b"},
        {"name": "../x"},
        {"minor": 1 << 20},
        {"port": 0},
        {"secret": 'quoted"; include "/etc/shadow'},
        {"secret": "short"},
        {"replicas": ()},
        {"replicas": (REPLICAS[0], REPLICAS[0])},
        {"replicas": (*REPLICAS, dataclasses.replace(REPLICAS[0], node="c", node_id=2))},
    ],
)
def test_what_no_resource_may_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a"):
        dataclasses.replace(OLD, **change)


def test_the_secret_is_in_no_text_about_the_resource() -> None:
    assert SECRET not in repr(OLD)
    with pytest.raises(ValueError, match="not shown") as raised:
        dataclasses.replace(OLD, secret="bad secret value ;;;;")
    assert "bad secret" not in str(raised.value)
