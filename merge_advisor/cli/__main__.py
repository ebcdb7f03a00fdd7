"""`python -m merge_advisor.cli`."""

import sys

from merge_advisor.cli import main

sys.exit(main())
