"""`python -m merge_advisor`."""

import sys

from merge_advisor.cli import main

sys.exit(main())
