"""What a worker's decisions rest on: keys, policy, ceilings and the control view.

All of it is handed to the lanes as one frozen value, made anew whenever a part changes.
Not here: the decisions (``lane.admission``), and reading the control topic
(``control_follower``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from stream_executor.auth.deny import DenyList
from stream_executor.auth.load import KeySource
from stream_executor.auth.policy import Policy
from stream_executor.auth.token import TokenProfile
from stream_executor.lane.admission import AdmissionContext, Ceilings
from stream_executor.lane.head import LEAST_HORIZON_MS
from stream_executor.model.audit import ContextDigests
from stream_executor.model.errors import ConfigError, UnavailableError
from stream_executor.model.job import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stream_executor.services.control_follower import ControlFollower
    from stream_executor.services.worker_settings import WorkerSettings

log = structlog.get_logger()


class DecisionBasis:
    """Holds the parts in force; not thread-safe.

    Args:
        settings: where keys and policy come from, and the ceilings.
        follower: of the control topic; whoever hears of changes passes them on
            (``view_changed``).

    Attributes:
        view: what the control topic says.
        ceilings: the most that a module may use.
        audience: the ``aud`` that tokens must have; empty before ``load_keys``.

    Raises:
        ConfigError: the policy file cannot be read or is none.
    """

    def __init__(self, settings: WorkerSettings, follower: ControlFollower) -> None:
        self.view = follower.view
        self.ceilings = _ceilings(settings)
        self.audience = ""
        self._settings = settings
        self._follower = follower
        self._profile = TokenProfile(
            settings.tokens.max_lifetime_s, settings.tokens.max_append_age_s
        )
        self._policy = _read_policy(settings.policy_path)
        self._keys: KeySource | None = None
        self._context: AdmissionContext | None = None

    @property
    def horizon_ms(self) -> int:
        """How long a spent token is remembered, milliseconds."""
        return max(self._profile.replay_window_ms, LEAST_HORIZON_MS)

    @property
    def keys_fetched_s(self) -> float | None:
        """When the keys' address last answered, seconds since 1970; 0 if never."""
        return None if self._keys is None else self._keys.fetched_s

    async def load_keys(self) -> None:
        """Load keys; the audience is the setting's, else what the ceremony said.

        Raises:
            ConfigError: there is no usable key.
            UnavailableError: a source could not be read.
        """
        if self._keys is None:
            rules = self._settings.tokens
            self.audience = rules.audience or self.view.audience
            rules = msgspec.structs.replace(rules, audience=self.audience)
            self._keys = KeySource.from_rules(rules, self._settings.secrets)
        await self._keys.load()

    async def follow_keys(self) -> None:
        """Read the keys' address again and again, for ever, once they are loaded."""
        if self._keys is not None:
            await self._keys.follow(_keys_not_refreshed)

    async def reload(self) -> None:
        """Read policy and keys again; what cannot be read leaves all as it was.

        Raises:
            ConfigError, UnavailableError: something cannot be read.
        """
        policy = _read_policy(self._settings.policy_path)
        if self._keys is not None:
            await self._keys.load()
        self._policy = policy
        self._context = None

    def view_changed(self) -> None:
        """Take note that the control view has grown."""
        self._context = None

    async def confirm_view(self) -> None:
        """Return once the view has passed the control topic's present end."""
        await self._follower.confirm()

    def context(self) -> AdmissionContext:
        """Give what decisions rest on now; the same object until it changes.

        Raises:
            UnavailableError: no keys have been loaded yet.
        """
        if self._keys is None:
            raise UnavailableError("no key set has been loaded yet")
        context, keys = self._context, self._keys.current
        if context is None or context.keys is not keys:
            view, policy = self.view, self._policy
            context = self._context = AdmissionContext(
                keys, self._profile, policy, DenyList.of(view.denied), view,
                self.ceilings,
                ContextDigests(
                    view.next_offset, view.head, policy.s256, keys.digest
                ),
            )  # fmt: skip
        return context

    def refresh_keys(self, context: AdmissionContext) -> Awaitable[None] | None:
        """Look for new keys before an unknown one is final, if it is time."""
        if self._keys is None or not self._keys.may_refresh(context.keys):
            return None
        return self._refresh_keys(self._keys, context)

    async def _refresh_keys(self, keys: KeySource, context: AdmissionContext) -> None:
        await keys.refresh_for_unknown_key(context.keys)


def _keys_not_refreshed(error: Exception) -> None:
    log.warning("keys.not_refreshed", reason=str(error))


def _read_policy(path: str | None) -> Policy:
    try:
        text = b"" if path is None else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return Policy.parse(text)


def _ceilings(settings: WorkerSettings) -> Ceilings:
    most = settings.ceilings
    return Ceilings(
        Limits(most.fuel_units, most.memory_bytes, most.deadline_ms),
        most.module_bytes,
        Limits(most.hard_fuel_units, most.hard_memory_bytes, most.hard_deadline_ms),
        most.hard_module_bytes,
        _output_bytes(most.result_bytes, settings.result_encoding),
    )


def _output_bytes(result_bytes: int, encoding: str) -> int:
    """Most output that a result can carry: JSON spells three bytes with four."""
    room = result_bytes - 8 * 1024
    return room * 3 // 4 if encoding == "json" else room
