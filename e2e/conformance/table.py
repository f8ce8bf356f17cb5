"""Prints what each proxy does with each exchange, and whether the file justifies where a peer differs.

Ends with 1 when ours fails an exchange, or when a difference of a peer has no note, or a note no difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exchanges import NOTES, read_all  # noqa: E402
from proxies import ENVOY, HAPROXY, OURS  # noqa: E402
from suite import run  # noqa: E402


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="", help="exchanges whose name contains this")
    arguments.add_argument("--proxies", default=f"{OURS},{ENVOY},{HAPROXY}", help="which, separated by commas")
    arguments.add_argument("--wide", action="store_true", help="do not shorten what a proxy did")
    given = arguments.parse_args()
    exchanges = [exchange for exchange in read_all() if given.only in exchange.name]
    kinds = given.proxies.split(",")
    outcomes, seconds = {}, {}
    for kind in kinds:
        start = time.monotonic()
        outcomes[kind] = run(kind, exchanges)
        seconds[kind] = time.monotonic() - start
    width = max(len(exchange.name) for exchange in exchanges)
    cell = 200 if given.wide else 44
    print("  ".join([f"{'EXCHANGE':{width}}", *(f"{kind.upper():{cell}}" for kind in kinds)]))
    bad = []
    for exchange in exchanges:
        cells = []
        for kind in kinds:
            outcome = outcomes[kind][exchange.name]
            note = exchange.notes.get(kind)
            mark = "ok " if outcome.passed else "DIFF " if note else "FAIL "
            if kind == OURS and not outcome.passed:
                bad.append(f"{exchange.name}: ours: {outcome.problem}")
            if kind in NOTES and not outcome.passed and not note:
                bad.append(f"{exchange.name}: {kind} differs without a note: {outcome.problem}")
            if kind in NOTES and outcome.passed and note and not note.startswith("sometimes "):
                bad.append(f"{exchange.name}: {kind} has a note but does not differ")
            text = (mark + str(outcome)).replace("\n", " ")
            cells.append(f"{text[:cell]:{cell}}")
        print("  ".join([f"{exchange.name:{width}}", *cells]).rstrip())
    print()
    for kind in kinds:
        passed = sum(outcome.passed for outcome in outcomes[kind].values())
        print(f"{kind}: {passed} of {len(exchanges)} as the exchanges say, in {seconds[kind]:.1f} s")
    print("\nWhere a peer differs:")
    for exchange in exchanges:
        for kind, note in exchange.notes.items():
            if kind in kinds:
                print(f"  {exchange.name}, {kind}: {note}")
    for line in bad:
        print(f"FAIL {line}".replace("\n", " ")[:600])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
