"""make audit: what is installed against the public list of known holes.

    audit.py PATH_OF_PACKAGES

pip-audit says that nothing is known of a package, and ends with 0, where it could not ask about it at all. Here that is no
audit: ends with 1 where a package has a known hole, and where the list was not asked about every one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

OWN = "kmcli"


def judged(report: dict[str, Any]) -> tuple[list[str], list[str], int]:
    """Of pip-audit's report: packages with holes, those that nothing could be asked about, and how many were looked up."""
    others = [one for one in report["dependencies"] if one["name"] != OWN]
    holes = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'none yet'}"
        for one in others
        for hole in one.get("vulns", ())
    ]
    unasked = [one["name"] for one in others if "skip_reason" in one]
    return holes, unasked, len(others) - len(unasked)


def main() -> int:
    words = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable", "--path", sys.argv[1]]
    ran = subprocess.run(words, capture_output=True, text=True)
    try:
        holes, unasked, asked = judged(json.loads(ran.stdout))
    except (ValueError, KeyError):
        print((ran.stderr.strip().splitlines() or ["no answer"])[-1])
        print("make audit: the public list of known holes cannot be reached; it needs the network")
        return 1
    for line in holes:
        print(line)
    if unasked:
        print(f"not looked up: {', '.join(unasked)}")
    print(f"FIGURE audited {asked}")
    print(f"FIGURE not_audited {len(unasked)}")
    print(f"FIGURE known_holes {len(holes)}")
    return int(bool(holes or unasked or not asked))


if __name__ == "__main__":
    sys.exit(main())
