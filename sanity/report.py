"""The JUnit report of csi-sanity, and what is wrong with it: pure functions."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

# How gomega shows an error's insides, below its text.
_DUMP = re.compile(r"^( *)\{\n(?:\1 .*\n)*\1\}\n", re.MULTILINE)
SPECS_AT_LEAST = 96  # of csi-sanity 5.5.0; fewer means that the run broke off


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Spec:
    name: str
    outcome: Outcome
    seconds: float
    message: str = ""  # why it failed or was skipped


@dataclass(frozen=True)
class Skip:
    """A permitted skip; `variants` empty: in all of them."""

    spec: str
    reason: str
    variants: tuple[str, ...] = ()

    def permits(self, spec: str, variant: str) -> bool:
        return self.spec == spec and (not self.variants or variant in self.variants)


def parse_report(xml: bytes) -> tuple[Spec, ...]:
    """The specs of a report by ginkgo. Raises ValueError for what is no such report."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"not a JUnit report: {error}") from error
    specs = []
    for case in root.iter("testcase"):
        name = case.get("name", "")
        # Set-up and tear-down of the whole suite are listed too, as "[BeforeSuite]" and the like.
        if name.startswith("[It] "):
            specs.append(_spec(name.removeprefix("[It] "), case))
    return tuple(specs)


def _spec(name: str, case: ElementTree.Element) -> Spec:
    seconds = float(case.get("time", "0"))
    skipped = case.find("skipped")
    if skipped is not None:
        reason = skipped.get("message", "").removeprefix("skipped - ")
        return Spec(name, Outcome.SKIPPED, seconds, reason)
    # A panic and a timeout are reported as <error>.
    for tag in ("failure", "error"):
        trouble = case.find(tag)
        if trouble is not None:
            text = (trouble.text or trouble.get("message") or "").strip()
            text = _DUMP.sub("", text.removeprefix("[FAILED] "))
            return Spec(name, Outcome.FAILED, seconds, text)
    if case.get("status") != "passed":
        return Spec(name, Outcome.FAILED, seconds, f"status {case.get('status')}")
    return Spec(name, Outcome.PASSED, seconds)


def read_skips(path: Path) -> tuple[Skip, ...]:
    """The permitted skips. Raises ValueError for an entry without a spec or a reason."""
    skips = []
    for entry in tomllib.loads(path.read_text()).get("skip", []):
        if not entry.get("spec") or not entry.get("reason"):
            raise ValueError(f"{path.name}: an entry needs a spec and a reason: {entry}")
        skips.append(Skip(entry["spec"], entry["reason"], tuple(entry.get("variants", ()))))
    return tuple(skips)


def problems(specs: Iterable[Spec], skips: Iterable[Skip], variant: str) -> list[str]:
    """Everything that makes the run a failure, in words; empty when all is well."""
    specs, skips = tuple(specs), tuple(skips)
    found = [f"FAILED {spec.name}\n{_indent(spec.message)}" for spec in _failed(specs)]
    skipped = {spec.name: spec.message for spec in specs if spec.outcome is Outcome.SKIPPED}
    for name, message in skipped.items():
        if not any(skip.permits(name, variant) for skip in skips):
            found.append(f"SKIPPED without leave (sanity/skips.toml): {name} ({message})")
    for skip in skips:
        if skip.permits(skip.spec, variant) and skip.spec not in skipped:
            found.append(f"NOT SKIPPED, but in sanity/skips.toml: {skip.spec}")
    if len(specs) < SPECS_AT_LEAST:
        found.append(f"only {len(specs)} specs of at least {SPECS_AT_LEAST} were reported")
    return found


def counts(specs: Iterable[Spec]) -> Mapping[Outcome, int]:
    return Counter(spec.outcome for spec in specs)


def summary(specs: Iterable[Spec]) -> str:
    """One line: "94 passed, 1 failed, 1 skipped"."""
    number = counts(specs)
    return ", ".join(f"{number.get(outcome, 0)} {outcome}" for outcome in Outcome)


def _failed(specs: Iterable[Spec]) -> Iterable[Spec]:
    return (spec for spec in specs if spec.outcome is Outcome.FAILED)


def _indent(text: str, lines: int = 25) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[:lines])
