"""Open a server's page in a browser once it is ready: open_page.py URL"""

from __future__ import annotations

import sys
import time
import urllib.request
import webbrowser

if __name__ == "__main__":
    (url,) = sys.argv[1:]
    while True:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5)  # noqa: S310 (the address is the demo's own)
            break
        except OSError:
            time.sleep(0.5)
    webbrowser.open(url)
