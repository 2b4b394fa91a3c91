"""The same histories as a hypothesis state machine, which shrinks what fails."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.model.damage import KINDS, TRIMS
from tests.model.run import CARRIED, CLOCK_MS, FATES, Run, Step, StepName
from tests.model.signatures import verified_once
from tests.model.virtual_time import VirtualTimeLoop

FEW = st.integers(0, 3)
AFTER = st.integers(0, 30)


class LaneHistories(RuleBasedStateMachine):
    """A lane's life, one rule a step; what holds at the end holds for every prefix."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(verified_once())
        self._runner = self._stack.enter_context(
            asyncio.Runner(loop_factory=VirtualTimeLoop)
        )
        self._run = self._runner.run(self._begin())

    async def _begin(self) -> Run:
        return Run()

    def _do(self, name: StepName, a: int = 0, b: int = 0) -> None:
        self._runner.run(self._run.do(Step(name, a, b)))

    @rule(many=FEW)
    def submit(self, many: int) -> None:
        """Good requests."""
        self._do("submit", many)

    @rule()
    def deadly(self) -> None:
        """A request of which workers die."""
        self._do("deadly")

    @rule()
    def banned(self) -> None:
        """A subject that may be denied by then."""
        self._do("banned")

    @rule(version=FEW)
    def named(self, version: int) -> None:
        """A module that may be published by then."""
        self._do("named", version)

    @rule(many=FEW)
    def burst(self, many: int) -> None:
        """Good requests, too many for some transactions."""
        self._do("burst", many)

    @rule(which=st.integers(0, len(CARRIED) - 1))
    def carry(self, which: int) -> None:
        """Transactions carry more, or less."""
        self._do("carry", which)

    @rule(many=FEW, which=st.integers(0, len(TRIMS) - 1))
    def trim(self, many: int, which: int) -> None:
        """A beginning is removed while everybody works."""
        self._do("trim", many, which)

    @rule(which=FEW)
    def replay(self, which: int) -> None:
        """A record once more."""
        self._do("replay", which)

    @rule(many=FEW)
    def unsigned(self, many: int) -> None:
        """Records without a token."""
        self._do("unsigned", many)

    @rule(many=FEW)
    def marker(self, many: int) -> None:
        """Offsets without a record."""
        self._do("marker", many)

    @rule(which=st.integers(0, len(CLOCK_MS) - 1))
    def clock(self, which: int) -> None:
        """The broker's clock moves, back too."""
        self._do("clock", which)

    @rule()
    def control(self) -> None:
        """Operators say the next thing."""
        self._do("control")

    @rule()
    def fetch(self) -> None:
        """Every owner that believes to be one fetches."""
        self._do("fetch")

    @rule()
    def serve(self) -> None:
        """What waits is answered."""
        self._do("serve")

    @rule(many=FEW)
    def skip(self, many: int) -> None:
        """A fetch that leaves records out."""
        self._do("skip", many)

    @rule(order=FEW)
    def report(self, order: int) -> None:
        """Guests end, in some order."""
        self._do("report", order)

    @rule()
    def settle(self) -> None:
        """Everything that can happen happens."""
        self._do("settle")

    @rule()
    def wait(self) -> None:
        """Seconds pass."""
        self._do("wait")

    @rule(after=AFTER, fate=st.integers(0, len(FATES) - 1))
    def fate(self, after: int, fate: int) -> None:
        """The owner dies, freezes or loses an answer at an effect to come."""
        self._do("fate", after, fate)

    @rule()
    def kill(self) -> None:
        """The owner dies now."""
        self._do("kill")

    @rule(many=AFTER, kind=st.integers(0, len(KINDS) - 1))
    def damage(self, many: int, kind: int) -> None:
        """Somebody harms the audit log while nobody writes it."""
        self._do("damage", many, kind)

    @precondition(lambda self: self._run.damages.halting)
    @rule()
    def resume(self) -> None:
        """The operator orders what a halted lane proposes."""
        self._do("resume")

    @precondition(lambda self: len(self._run.owners) < 6)
    @rule()
    def takeover(self) -> None:
        """Somebody else takes the lane; the owner is not told."""
        self._do("takeover")

    @rule()
    def thaw(self) -> None:
        """Who was frozen goes on."""
        self._do("thaw")

    @rule()
    def deliver(self) -> None:
        """Late ends of transactions arrive."""
        self._do("deliver")

    @rule()
    def release(self) -> None:
        """The owner gives the lane up in good order."""
        self._do("release")

    def teardown(self) -> None:
        """Let one last owner finish; then everything must hold."""
        try:
            self._runner.run(self._run.finish())
            self._run.verify()
        finally:
            self._runner.run(self._run.close())
            self._stack.close()


TestLaneHistories = LaneHistories.TestCase
TestLaneHistories.settings = settings(
    max_examples=100, stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
