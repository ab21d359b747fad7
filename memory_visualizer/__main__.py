"""``python -m memory_visualizer`` is ``memviz``."""

import sys

from memory_visualizer.cli.memviz import main

sys.exit(main())
