"""km: a local library of documents and their Knowledge Modules."""

import os

# torch's threads spin while they wait for each other, and then lose a factor of ten and more where another program uses
# the processor too; asleep they lose next to nothing. Read once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
