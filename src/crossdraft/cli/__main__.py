"""``python -m crossdraft.cli``."""

import sys

from crossdraft.cli.main import main

sys.exit(main())
