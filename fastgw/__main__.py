"""`python -m fastgw` is the command `fastgw`."""

import sys

from fastgw.cli import main

sys.exit(main())
