"""Prints `PASSED FAILED` of a JUnit report of pytest, for tests/run."""

import sys
import xml.etree.ElementTree as xml


def main():
    try:
        suites = list(xml.parse(sys.argv[1]).getroot().iter("testsuite"))
    except (OSError, xml.ParseError):
        print("0 1")  # pytest ended before it could write its report
        return
    total, bad, skipped = (sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "skipped"))
    bad += sum(int(s.get("errors", 0)) for s in suites)
    print(max(total - bad - skipped, 0), bad)


main()
