"""Machines that models run on: found, judged fit, given the agent and the model, measured, and left clean."""

from __future__ import annotations

from melt_core.devices.device import Device, connect
from melt_core.devices.gates import GateLimits
from melt_core.devices.measurement import Measurement

__all__ = ["Device", "GateLimits", "Measurement", "connect"]
