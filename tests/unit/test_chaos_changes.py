"""What a chaos run takes for an answer to be repeated, and what fails it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.errors import Busy, ClusterError, DataLoss, NotFound, Refused, Unavailable
from tests.chaos_changes import GivenUp, Job
from tests.chaos_schedule import Change


def job(make: Callable[[Job], None]) -> Job:
    made = Job(Change("verify", 0, 0.0), make)
    made.run()
    return made


def test_a_call_is_repeated_until_it_succeeds() -> None:
    answers: list[ClusterError] = [Busy("held"), Busy("held"), Refused("not in sync")]
    results: list[str] = []

    def call() -> str:
        if answers:
            raise answers.pop(0)
        return "begun"

    done = job(lambda made: results.append(made.repeat("verify it", call)))
    assert done.failure is None
    assert results == ["begun"]
    told = [line.partition(" ")[2] for line in done.said]
    assert told == [
        "verify of volume 0 after 0.0 s: cannot verify it: Busy held",
        "verify of volume 0 after 0.0 s: cannot verify it: Refused not in sync",
        "verify of volume 0 after 0.0 s: done",
    ]


@pytest.mark.parametrize("error", [NotFound("gone"), DataLoss("damaged"), ClusterError("a bug")])
def test_an_answer_that_nobody_repeats_fails_the_run(error: ClusterError) -> None:
    def call() -> None:
        raise error

    assert job(lambda made: made.repeat("verify it", call)).failure is error


def test_a_run_that_ends_ends_its_changes() -> None:
    def make(made: Job) -> None:
        def call() -> None:
            made.given_up.set()
            raise Unavailable("lost")

        with pytest.raises(GivenUp):
            made.repeat("verify it", call)

    assert job(make).failure is None
