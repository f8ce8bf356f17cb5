"""Every HTTP/1 exchange of `http1/*.txt` through our proxy. What the peers do with them prints `make conformance`."""

import pytest

from exchanges import read_all
from proxies import OURS
from suite import run

EXCHANGES = read_all()


@pytest.fixture(scope="module")
def outcomes():
    return run(OURS, EXCHANGES)


def test_the_suite_is_large_enough():
    assert len(EXCHANGES) >= 150


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_http1(exchange, outcomes):
    outcome = outcomes[exchange.name]
    assert outcome.passed, f"{exchange.why}\n{outcome.problem}\nso far: {', '.join(outcome.trail)}"
