"""A real browser for tests of pages, and what it is asked of a page."""

import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EXAMINE = Path(__file__).with_name("examine.js").read_text()
"""Returns the faults of a page by kind."""
