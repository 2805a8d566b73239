"""Where values and cotangents grow, shrink and stop, layer by layer."""

from funcgrad.inspect.flows.flags import Flag, Thresholds
from funcgrad.inspect.flows.flow import Flow
from funcgrad.inspect.flows.transform import flow, value_grad_and_flow

__all__ = ["Flag", "Flow", "Thresholds", "flow", "value_grad_and_flow"]
