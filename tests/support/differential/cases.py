"""One call of each public method that succeeds, as requests made of the state of the world.

A case of a mutation makes requests about another object each time it is asked, so that both edges
find the same state.
"""

from tests.support.differential import (  # noqa: F401  they fill CASES
    conversation_cases,
    service_cases,
)
from tests.support.differential.registry import CASES

__all__ = ["CASES"]
