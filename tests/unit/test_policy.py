"""The order of pools: cost, deadlines, pools that must start first."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from serve_app.policy import Candidate, Pool, ranked
from serve_app.request import GenerationRequest

REQUEST = GenerationRequest("id", "x", "", 512, 512, 4, 0.0, seed=0)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def one(name: str, *, cost: float, finish_s: float, start_s: float = 0.0) -> Candidate:
    return Candidate(cast(Pool, _Named(name)), REQUEST, start_s, finish_s, cost)


def order(
    *candidates: Candidate, left_s: float = float("inf"), patient: bool = False, failed: str = ""
) -> str:
    best_first = ranked(candidates, time_left_s=left_s, patient=patient, failed=failed.split())
    return " ".join(candidate.pool.name for candidate in best_first)


def test_the_cheapest_in_time_then_the_soonest() -> None:
    dear, cheap = one("dear", cost=9, finish_s=1), one("cheap", cost=1, finish_s=60)
    assert order(dear, cheap) == "cheap dear"
    assert order(dear, cheap, left_s=10) == "dear cheap"
    assert order(one("slow", cost=1, finish_s=60), one("less", cost=9, finish_s=50), left_s=1) == "less slow"


def test_equal_cost_and_finish_keep_the_order_of_configuration() -> None:
    assert order(one("b", cost=1, finish_s=1), one("a", cost=1, finish_s=1)) == "b a"


def test_a_sleeping_pool_goes_first_only_where_it_gets_the_picture_sooner() -> None:
    asleep = one("asleep", cost=1, finish_s=62, start_s=60)
    assert order(asleep, one("up", cost=9, finish_s=2)) == "up asleep"
    # A long queue at the dear one: the start is over sooner.
    assert order(asleep, one("up", cost=9, finish_s=100)) == "asleep up"
    # Not for more money, while the deadline is met anyway ...
    dear = one("dear", cost=20, finish_s=62, start_s=60)
    assert order(dear, one("up", cost=9, finish_s=100)) == "up dear"
    # ... but when it is not.
    assert order(dear, one("up", cost=9, finish_s=100), left_s=80) == "dear up"
    assert order(dear, one("up", cost=9, finish_s=100), left_s=50) == "dear up"


def test_of_sleeping_pools_the_one_that_is_ready_sooner() -> None:
    slow, quick = (
        one("slow", cost=1, finish_s=300, start_s=299),
        one("quick", cost=9, finish_s=60, start_s=59),
    )
    assert order(slow, quick) == "quick slow"
    assert order(slow, quick, patient=True) == "slow quick"


def test_a_patient_request_waits_for_the_cheapest_but_not_past_its_deadline() -> None:
    asleep, up = one("asleep", cost=1, finish_s=300, start_s=299), one("up", cost=9, finish_s=2)
    assert order(up, asleep, patient=True) == "asleep up"
    assert order(up, asleep, patient=True, left_s=100) == "up asleep"


def test_a_pool_that_failed_the_request_comes_after_those_that_did_not() -> None:
    cheap, dear = one("cheap", cost=1, finish_s=1), one("dear", cost=9, finish_s=1)
    assert order(cheap, dear, failed="cheap") == "dear cheap"


_candidate = st.builds(
    one,
    st.sampled_from("abcd"),
    cost=st.integers(0, 5),
    finish_s=st.integers(1, 50),
    start_s=st.sampled_from([0.0, 0.0, 5.0]),
)


@given(st.lists(_candidate, min_size=1, max_size=6), st.integers(0, 50))
def test_whoever_is_first_is_not_beaten_in_both(candidates: list[Candidate], left_s: int) -> None:
    best = ranked(candidates, time_left_s=left_s)[0]
    assert sorted(map(id, ranked(candidates, time_left_s=left_s))) == sorted(map(id, candidates))
    if any(candidate.finish_s <= left_s for candidate in candidates):
        assert best.finish_s <= left_s
    for other in candidates:
        sooner, cheaper = other.finish_s < best.finish_s, other.cost < best.cost
        assert not (other.up and sooner and cheaper), f"{other} beats {best}"
