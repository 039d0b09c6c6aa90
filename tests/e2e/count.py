"""Prints `PASSED FAILED` of a JUnit report of pytest, for tests/run; then a line for each test that was not run, with its reason."""

import sys
import xml.etree.ElementTree as xml


def main():
    try:
        root = xml.parse(sys.argv[1]).getroot()
    except (OSError, xml.ParseError):
        print("0 1")  # pytest ended before it could write its report
        return
    suites = list(root.iter("testsuite"))
    total, bad, skipped = (sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "skipped"))
    bad += sum(int(s.get("errors", 0)) for s in suites)
    print(max(total - bad - skipped, 0), bad)
    for test in root.iter("testcase"):
        for skip in test.iter("skipped"):
            print(f"{test.get('name')}: NOT RUN: {skip.get('message')}")


main()
