"""Exit codes of commands that end well or in part; those of errors are `MergeAdvisorError.exit_code`'s."""

from __future__ import annotations

OK, FAILED, PARTIAL = 0, 1, 3
"""Done; done, and something that was looked at is wrong; done, but something was set aside or failed."""
