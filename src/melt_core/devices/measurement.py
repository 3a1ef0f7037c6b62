"""What is to be measured on a device, and how the device is treated meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from melt_core.devices.gates import GateLimits
from melt_core.devices.retry import Patience
from melt_core.devices.runs import FOLLOW_PATIENCE, POLL_S, RUN_TIMEOUT_S
from melt_core.errors import InvalidArgumentError


@dataclass(frozen=True)
class Measurement:
    """What to measure and how to treat the device.

    Attributes:
        request: As the agent's protocol has it, without the model.
        limits: The gates.
        telemetry_s: How often the device's sensors are asked while it runs; 0: not at all.
        poll_s: How often it is asked how far it is; at most 60, so that its lease does not end meanwhile.
        patience: How long the device may be out of reach meanwhile.
        timeout_s: How long the run is followed; it goes on after that, and can be brought back.
        metadata: Of the caller's own, for the trace.
    """

    request: Mapping[str, Any]
    limits: GateLimits = field(default_factory=GateLimits)
    telemetry_s: float = 1.0
    poll_s: float = POLL_S
    patience: Patience = FOLLOW_PATIENCE
    timeout_s: float = RUN_TIMEOUT_S
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.poll_s <= 60.0:  # NaN is not either
            raise InvalidArgumentError(f"poll_s is {self.poll_s}: give 0.01 to 60 seconds")
