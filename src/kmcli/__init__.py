"""km: a local library of documents and their Knowledge Modules."""

import os

# torch's threads spin while they wait for each other, and then lose a factor of ten where another program uses the
# processor too. A short spin, then sleep, costs nothing on a quiet machine: docs/experiments.md. Set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
