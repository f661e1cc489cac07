"""Base class of the functional tests: given a guest, when updated under traffic, then evidence and a verdict."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from avocado import Test

from cprlib.build.assets import find_assets, find_base_qemu
from cprlib.build.qemu_facts import known_facts
from cprlib.deadline import timeout_scale
from cprlib.errors import (
    CaseEnded,
    CprlibError,
    DeadlineExceeded,
    EnvironmentFailure,
    GuestFailed,
    NotSupported,
    QemuFailed,
    SkipWord,
)
from cprlib.evidence.case import CaseEvidence
from cprlib.evidence.clock_checks import host_clock_checks, read_host_clock
from cprlib.evidence.records import Outcome, Parameters, Role
from cprlib.files import project_folder
from cprlib.guest.image import GuestImage
from cprlib.process import die_with_parent
from cprlib.qemu.binary import require_device, require_machine, require_sandbox
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.facts import QemuFacts
from cprlib.qemu.netdev import NIC_DRIVER
from cprlib.report.matrix import NOT_IN_NAMES, POINT, point_name
from cprlib.report.results_folder import case_id, method_of, start_case
from cprlib.testing.checks import is_qemu_failure
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.measured_case import MeasuredCase
from cprlib.testing.parameters import (
    NIC_PREFIX,
    SuiteParameters,
    own_parameters,
    read_parameters,
    shared_parameters,
)
from cprlib.testing.restored_guest import may_restore, template_for
from cprlib.update.guest_traffic import spread_flows
from cprlib.update.mechanism import Mechanism, Mode
from cprlib.update.running_guest import RunningGuest, running_guest, starts_without_nic
from cprlib.verdict.judge import judge
from cprlib.verdict.policy import Policy
from cprlib.verdict.policy_file import load_policy

ALIASES = ("pc", "q35")  # machine types that every QEMU has, under the name of the newest


class LiveUpdateTest(Test):  # type: ignore[misc]
    """A test on a real guest; see tests/functional for how it reads.

    :avocado: disable
    """

    timeout: float = 300  # seconds, scaled as all deadlines are

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.timeout *= timeout_scale()

    def setUp(self) -> None:
        """Read the parameters and find the QEMU and the guest image."""
        if not os.environ.get("CPRLIB_LAB"):
            die_with_parent()  # a runner that is killed must not leave its test running
        for chatty in ("qemu", "asyncio"):  # what they do is in transcripts; each line costs time in a lab
            logging.getLogger(chatty).setLevel(logging.WARNING)
        items = list(self.params.iteritems())
        self.parameters: SuiteParameters = read_parameters(self.params.get, {key for _, key, _ in items})
        given = self.parameters
        if given.qemu and given.kernel and given.initramfs:
            self.qemu, self.image = given.qemu, GuestImage(given.kernel, given.initramfs, "given")
        else:
            assets = find_assets()
            self.qemu, self.image = given.qemu or find_base_qemu(given.base, assets), assets.guest
        self.facts: QemuFacts = known_facts(self.qemu)

    @contextlib.contextmanager
    def given_guest(self, spec: GuestSpec) -> Iterator[MeasuredCase]:
        """A running guest, and the case that collects what is seen of it.

        The case's evidence is written when the body ends, also by an exception. A QEMU or guest that dies, refuses or
        hangs in the body is a failed check. If no update has begun, the case is inconclusive. A guest that does not
        boot fails the case only if the same guest boots without ``cpr=on``, or its QEMU starts only without NICs.
        """
        run, policy = self.parameters, load_policy(self.params.get("policy", default="default"))
        spec = self._by_mechanism(spec)
        rate = spec.rate_in(run, policy.instrument.min_sent)
        run = replace(run, ip_version=spec.ip_version or run.ip_version, rate=rate)
        mechanism, settings = spec.mechanism, spec.settings(run, self.qemu, self.image, self.facts.local)
        evidence = self._new_evidence(spec, run, settings)
        folder = start_case(
            Path(self.outputdir), evidence.id, test=str(self.name), title=evidence.title, mechanism=evidence.mechanism
        )
        case = MeasuredCase(run, folder, evidence, packets=policy.instrument.min_sent)
        clock = read_host_clock()
        try:
            self._require(spec, settings)
            if spec.between_qemus:
                facts = self._probe_target()
                case.evidence = replace(case.evidence, target=facts)
                mechanism.handling.require(facts, spec.mode)
            with contextlib.ExitStack() as stack:
                if guest := self._boot(case, spec, settings, stack):
                    with case.expect_survival():
                        case.guest = guest
                        case.note_complaints_at_boot()
                        if settings.netdevs[0].queues > 1:
                            spread_flows(guest.agent)
                        if spec.role is Role.CHECKS:  # traffic that is measured has a control run
                            with case.control_step():
                                case.expect_answers("booted", settings.netdevs[:1])
                        yield case
                        case.check_frames()
                        if not case.evidence.faults:  # after which a QEMU may complain
                            case.expect_no_nic_error()
        except NotSupported as error:
            case.skip(error.word, error.one_line())
        except CaseEnded as error:
            case.warn(f"{error.happened}, as parameter stop_at asks")
        finally:
            case.evidence = case.evidence.with_checks(*host_clock_checks(clock, read_host_clock()))
            try:
                case.note_death()
            finally:
                case.write()
        self._conclude(case, policy)

    def _by_mechanism(self, spec: GuestSpec) -> GuestSpec:
        """The spec, by mechanism and mode of this run where the test is about several (its tags of these names).

        Parameter ``mechanism`` chooses one; without it, it is ``cpr``, or ``local`` for a QEMU that has only this.
        """
        run, facts, several, tags = self.parameters, self.facts, (Mechanism.CPR, Mechanism.LOCAL), self.tags or {}
        if spec.mechanism is Mechanism.CPR and run.mode is Mode.CPR_EXEC and run.mode in tags.get("mode", ()):
            return replace(spec, mode=run.mode)
        if spec.mechanism is not Mechanism.CPR or not set(several) <= set(tags.get("mechanism") or ()):
            return spec
        found = Mechanism.LOCAL if facts.migration_local and not facts.netdev_cpr else Mechanism.CPR
        chosen = run.mechanism if run.mechanism in several else found
        return spec if chosen is Mechanism.CPR else replace(spec, mechanism=chosen, mode=run.mode)

    def _boot(
        self, case: MeasuredCase, spec: GuestSpec, settings: MachineSettings, stack: contextlib.ExitStack
    ) -> RunningGuest | None:
        """Boot the guest; None when it does not boot, which is in the evidence then.

        A QEMU that dies, refuses or hangs with ``cpr=on`` is a finding when the same guest boots without; so is a guest
        that panics or takes no NIC. So is a QEMU that starts with no tap at all, where this host allows it and the run
        has no options of its own for QEMU.
        """
        run = case.parameters
        path = run.queue_length, run.path_mtu
        ordinary = not (run.nic_properties or run.arguments) and run.vcpus == 1
        if ordinary and may_restore(spec, run, self.qemu) and (guest := self._restore(case, spec, settings, stack)):
            return guest
        try:
            guest = stack.enter_context(running_guest(settings, spec.mechanism, case.folder, *path, mode=spec.mode))
            case.note("guest", "booted")
            return guest
        except (QemuFailed, GuestFailed, DeadlineExceeded) as error:
            self._add_boot_failure(case, spec, error, ordinary=ordinary)
            return None

    def _add_boot_failure(self, case: MeasuredCase, spec: GuestSpec, error: CprlibError, *, ordinary: bool) -> None:
        """Add that the guest did not boot, after a look at what boots instead.

        :param ordinary: the run has no options of its own for QEMU, which could be at fault.
        """
        run, control, only_without_nic, failed = case.parameters, "no control without cpr=on", False, error
        without = replace(spec, mechanism=Mechanism.NONE).settings(run, self.qemu, self.image)
        if spec.mechanism.handling.sends_descriptors and (is_qemu_failure(error) or isinstance(error, GuestFailed)):
            (folder := case.folder / "without-cpr").mkdir()
            try:
                with running_guest(without, Mechanism.NONE, folder, run.queue_length, run.path_mtu):
                    control = ""
            except CprlibError as other:
                control, failed = f"without cpr=on: {other.one_line()}", other
        if control and ordinary and isinstance(error, QemuFailed) and isinstance(failed, QemuFailed):
            (alone := case.folder / "without-nic").mkdir()
            only_without_nic = starts_without_nic(without, alone)
        case.add_boot_failure(error, control, starts_without_nic=only_without_nic)

    def _restore(
        self, case: MeasuredCase, spec: GuestSpec, settings: MachineSettings, stack: contextlib.ExitStack
    ) -> RunningGuest | None:
        """Restore the guest from a template; None when that fails, which is in the evidence then."""
        mechanism, length = spec.mechanism, case.parameters.queue_length
        try:
            if template := template_for(settings, spec, case.folder, length):
                given = replace(settings, kernel_arguments=template.kernel_arguments)
                restored = running_guest(given, mechanism, case.folder, length, saved=template.state, mode=spec.mode)
                guest = stack.enter_context(restored)
                case.note("guest", f"restored from template {template.key[:12]}")
                return guest
        except (QemuFailed, GuestFailed, DeadlineExceeded) as error:
            case.warn(f"the guest boots, because restoring it from a template failed: {error.one_line()}")
            failed = case.folder / "not-restored"
            failed.mkdir()
            for path in case.folder.glob("*-source*"):
                path.rename(failed / path.name)
        return None

    def _probe_target(self) -> QemuFacts:
        """Version and features of the run's other QEMU.

        :raises NotSupported: there is none.
        """
        if self.parameters.target is None:
            raise NotSupported(
                "update from one QEMU to another",
                "no other QEMU was given",
                "give one with cprlib run --target-base 10.2 or --target-qemu PATH (parameter target_qemu)",
                word=SkipWord.NO_TARGET,
            )
        return known_facts(self.parameters.target)

    def _conclude(self, case: MeasuredCase, policy: Policy) -> None:
        """Let Avocado's status follow the verdict: fail, error for inconclusive, cancel for skipped."""
        verdict = judge(case.evidence, policy).verdict
        case.evidence = replace(case.evidence, concluded=verdict.outcome)
        case.write()
        match verdict.outcome:
            case Outcome.PASS:
                return
            case Outcome.SKIP:
                self.cancel(case.evidence.skip_text)
            case Outcome.FAIL:
                self.fail(verdict.status_reason())
            case _:
                self.error(verdict.status_reason())

    def _require(self, spec: GuestSpec, settings: MachineSettings) -> None:
        spec.mechanism.handling.require(self.facts, spec.mode)
        if spec.nic != NIC_DRIVER:
            require_device(self.qemu, spec.nic)
        if "-sandbox" in settings.extra:
            require_sandbox(self.qemu)
        if settings.machine not in ALIASES:
            require_machine(self.qemu, settings.machine)
        if settings.netdevs[0].vhost and not Path("/dev/vhost-net").exists():
            raise EnvironmentFailure(
                "run a case with vhost", "this kernel has no /dev/vhost-net", "use the lab: cprlib run --lab"
            )

    def point(self) -> dict[str, str]:
        """The parameters that name the case where Avocado runs the test in several variants."""
        return own_parameters(self.params.iteritems())

    def _reproduce(self, method: str, point: dict[str, str]) -> str:
        words = ["cprlib", "run"]
        if base := point.get("base"):
            words += ["--base", base]
        given = shared_parameters(self.params.iteritems()) | point
        for name in sorted(given.keys() - {"base", *NOT_IN_NAMES}):
            words += ["-p", f"{name}={given[name]}"]
        if self.parameters.mutant:  # its number means nothing without this QEMU
            words += ["--qemu", str(self.qemu.path), "-p", f"mutant={self.parameters.mutant}"]
        return shlex.join([*words, f"{_shown(Path(self.filename))}:{type(self).__name__}.{method}"])

    def _new_evidence(self, spec: GuestSpec, run: SuiteParameters, settings: MachineSettings) -> CaseEvidence:
        method = method_of(str(self.name))
        facts = self.facts
        control_run = spec.role is Role.CONTROL_RUN
        point = self.point()
        name = point_name(point)
        more = ({POINT: name} if name else {}) | ({"base": run.base} if run.base else {})
        more |= {"mode": str(spec.mode)} if spec.mode is not Mode.CPR_TRANSFER else {}
        more |= {"mutant": run.mutant} if run.mutant else {}
        more |= {f"{NIC_PREFIX}{key}": value for key, value in run.nic_properties.items()}
        more |= {"qemu_args": run.qemu_args} if run.qemu_args else {}
        more |= {"vcpus": str(settings.vcpus), "memory": str(settings.memory_mib)}
        return CaseEvidence(
            id=f"{case_id(method)}-{name}" if name else case_id(method),
            mechanism=Mechanism.NONE if control_run else spec.mechanism,
            role=spec.role,
            title=(getattr(self, method).__doc__ or "").strip().splitlines()[0].replace("``", ""),
            test=str(self.name),
            started_ns=time.time_ns(),
            parameters=Parameters(
                queues=settings.netdevs[0].queues,
                vhost=settings.netdevs[0].vhost,
                rate=run.rate,
                size=run.size,
                ip_version=run.ip_version,
                machine=settings.machine,
                tap_queue_length=run.queue_length,
                more=more,
            ),
            source=facts,
            target=None if control_run else facts,
            reproduce=self._reproduce(method, point),
        )


def _shown(path: Path) -> Path:
    return path.relative_to(project_folder()) if path.is_relative_to(project_folder()) else path
