"""`python -m benchmarks.micro [NAME ...]`: the micro-benchmarks of this tree."""

import sys

from . import measure

sys.exit(measure.main())
