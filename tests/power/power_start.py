"""`power_start.py [PRAGMA=VALUE ...] -- ISTHMUS ARGUMENTS`: Isthmus with another set-up of SQLite.

A log that is copied back often has more kinds of moments to lose power in than one of 16 MB has. A
store that is not synchronous loses messages: with one, the judge shows that it sees it.
"""

from __future__ import annotations

import sys

from isthmus.cli.main import main
from isthmus.store import database

if __name__ == "__main__":
    cut = sys.argv.index("--")
    database.SETTINGS = (*database.SETTINGS, *sys.argv[1:cut])
    sys.argv = ["isthmus", *sys.argv[cut + 1 :]]
    main()
