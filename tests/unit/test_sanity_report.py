"""What csi-sanity reports is judged: failures, skips without leave, runs that broke off."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanity import report
from sanity.report import Outcome, Skip, Spec
from sanity.variants import FOLDER, VARIANTS

PROBE = "Identity Service Probe should return appropriate information"
INFO = "Identity Service GetPluginInfo should return appropriate information"
PAGES = "Controller Service [Controller Server] ListVolumes pagination"

# As csi-sanity 5.5.0 wrote it, shortened.
CAPTURED = f"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="96" disabled="95" errors="0" failures="1" time="60.020528602">
  <testsuite name="CSI Driver Test Suite" package="/tmp" tests="96" failures="1">
    <properties><property name="SuiteSucceeded" value="false"></property></properties>
    <testcase name="[BeforeSuite]" classname="CSI Driver Test Suite" status="passed" time="0">
    </testcase>
    <testcase name="[It] {INFO}" classname="x" status="passed" time="0.0015"></testcase>
    <testcase name="[It] {PROBE}" classname="x" status="failed" time="60.014250316">
      <failure message="Unexpected error:&#xA;    Connection timed out&#xA;occurred" type="failed"
>[FAILED] Unexpected error:&#xA;    Connection timed out&#xA;    {{&#xA;        s: "",\
&#xA;    }}&#xA;occurred&#xA;In [BeforeEach] at: \
sanity.go:273 @ 11/23/26 18:42:29.358&#xA;</failure>
      <system-err>&gt; Enter [BeforeEach] Identity Service</system-err>
    </testcase>
    <testcase name="[It] {PAGES}" classname="x" status="pending" time="0">
      <skipped message="pending"></skipped>
    </testcase>
  </testsuite>
</testsuites>""".encode()


def all_passed(*but: Spec) -> tuple[Spec, ...]:
    names = [f"spec {number}" for number in range(report.SPECS_AT_LEAST - len(but))]
    return (*(Spec(name, Outcome.PASSED, 0.0) for name in names), *but)


def test_a_report_is_read_spec_by_spec() -> None:
    passed, failed, pending = report.parse_report(CAPTURED)

    assert passed == Spec(INFO, Outcome.PASSED, 0.0015)
    assert (failed.name, failed.outcome) == (PROBE, Outcome.FAILED)
    assert failed.message.startswith("Unexpected error:\n    Connection timed out\noccurred\n")
    assert "sanity.go:273" in failed.message
    assert pending == Spec(PAGES, Outcome.SKIPPED, 0.0, "pending")
    assert report.summary((passed, failed, pending)) == "1 passed, 1 failed, 1 skipped"


def test_a_run_without_failure_and_without_skip_is_fine() -> None:
    assert report.problems(all_passed(), (), "thin-mount") == []


def test_a_failed_spec_is_told_with_its_message() -> None:
    (problem,) = report.problems(
        all_passed(Spec(PROBE, Outcome.FAILED, 0.1, "not ready")), (), "thin-mount"
    )

    assert problem == f"FAILED {PROBE}\n    not ready"


def test_only_listed_specs_may_be_skipped() -> None:
    specs = all_passed(Spec(PAGES, Outcome.SKIPPED, 0.0, "pending"))

    assert report.problems(specs, [Skip(PAGES, "upstream")], "thin-mount") == []
    (problem,) = report.problems(specs, (), "thin-mount")
    assert problem.startswith("SKIPPED without leave")


def test_a_listed_spec_that_was_not_skipped_is_a_problem() -> None:
    (problem,) = report.problems(all_passed(), [Skip(PAGES, "upstream")], "thin-mount")

    assert problem.startswith("NOT SKIPPED")


def test_a_skip_holds_only_for_its_variants() -> None:
    specs = all_passed(Spec(PAGES, Outcome.SKIPPED, 0.0, "pending"))
    skips = [Skip(PAGES, "block has no file system", ("thin-block",))]

    assert report.problems(specs, skips, "thin-block") == []
    assert report.problems(specs, skips, "thin-mount") != []
    assert report.problems(all_passed(), skips, "thin-mount") == []


def test_a_run_that_broke_off_is_a_problem() -> None:
    (problem,) = report.problems(all_passed()[:50], (), "thin-mount")

    assert problem == "only 50 specs of at least 96 were reported"


def test_a_skip_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "skips.toml"
    path.write_text('[[skip]]\nspec = "Identity Service"\n')

    with pytest.raises(ValueError, match=r"needs a spec and a reason"):
        report.read_skips(path)


def test_a_report_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="not a JUnit report"):
        report.parse_report(CAPTURED[:-40])


def test_every_variant_has_its_parameters() -> None:
    assert all(variant.parameters.is_file() for variant in VARIANTS)
    assert report.read_skips(FOLDER / "skips.toml")
