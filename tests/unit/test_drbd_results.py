"""What the module answers to a change, as drbdsetup prints it, made into errors."""

from __future__ import annotations

import pytest

from host.errors import CommandFailed, HostError, InUse, Refused
from replication.results import translated


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("6247: Failure: (130) Resize not allowed during resync.", Refused),
        ("6247: Failure: (138) Device does not have a disk-config", Refused),
        ("6247: Failure: (153) Protocol version 93 required to use --assume-clean", Refused),
        ("6247: State change failed: (-12) Device is held open by someone", InUse),
        ("6247: Failure: (177) nobody knows this one", CommandFailed),
    ],
)
def test_the_words_of_the_module_stay_and_the_class_says_what_to_do(
    said: str, kind: type[HostError]
) -> None:
    with pytest.raises(HostError) as caught, translated():
        raise CommandFailed(["drbdsetup", "resize", "6247"], 10, said)
    assert type(caught.value) is kind
    assert said in str(caught.value)
