"""A fixture for pytest: a project's own test fails where a run does not keep a budget."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def clipshift_budget() -> Callable[[Any, Any], Any]:
    """`clipshift.check_budget`, which fails the test unless all limits are kept.

    Example:
        def test_the_new_encoder(clipshift_budget):
            clipshift_budget("outputs/new", "budget.yaml")
    """

    def check(run: Any, budget: Any) -> Any:
        import clipshift  # torch takes seconds to import: other tests do not wait for it

        judgement = clipshift.check_budget(run, budget)
        if judgement.verdict != "pass":
            pytest.fail(str(judgement), pytrace=False)
        return judgement

    return check
