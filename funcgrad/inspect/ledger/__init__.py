"""The ledger of :func:`funcgrad.inspect.residuals`."""

from funcgrad.inspect.ledger.entries import Residual
from funcgrad.inspect.ledger.ledger import Ledger, Region
from funcgrad.inspect.ledger.suggest import Measured, Suggestion
from funcgrad.inspect.ledger.walk import Ask

__all__ = ["Ask", "Ledger", "Measured", "Region", "Residual", "Suggestion"]
