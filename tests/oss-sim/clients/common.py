"""What the client scripts share: cases, the administrator's calls, arguments."""
import json
import sys
import traceback
import urllib.request

REGION, KEY_ID, SECRET = "cn-hangzhou", "ak", "sk"


class Sim:
    def __init__(self, endpoint, admin):
        self.endpoint, self.admin = endpoint, admin

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.admin + path, data=data, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def advance(self, seconds):
        self.call("POST", "/clock/advance", {"seconds": seconds})


def main(cases):
    """Runs `cases(sim)`, an iterable of (name, function), and prints one line per case."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} http://ENDPOINT http://ADMIN")
    sim, failed = Sim(*sys.argv[1:3]), 0
    # The clients' clocks do not follow the virtual one.
    sim.call("PUT", "/clock", {"skew_check": False})
    for name, run in cases(sim):
        try:
            run()
            print(f"ok {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc()
    sys.exit(1 if failed else 0)
