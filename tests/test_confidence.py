"""How likely an answer is right: the curves, how they are fitted, and what they decide."""

from __future__ import annotations

import json
import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmcli.engines import Generation, TokenLogprobs
from kmcli.routing import confidence, support
from kmcli.routing.confidence import (
    NOTHING,
    PRIOR,
    Calibration,
    Closed,
    Example,
    Opened,
    calibration_error,
    fit,
    shrunk,
    was_right,
)
from kmcli.routing.support import Mentions
from kmcli.types import Passage

SURE = Closed("Ann Lee", -0.01, (1.0, 1.0, 1.0), 1.0, False)
UNSURE = Closed("Bo", -1.2, (0.5, 0.5, 1.0), 1.0, False)
STRANGE = Closed("Bo", -0.5, (0.0, 0.0, 0.0), 0.0, False)
FOUND = Opened("Ann Lee", -0.01, (1.0, 1.0, 1.0), False)
REFUSED = Opened("The text does not say.", -0.1, (0.0, 0.5, 0.5), True)


def by_prior() -> Calibration:
    return Calibration(PRIOR)


def test_who_answers() -> None:
    by = by_prior()
    sure = by.before(SURE)
    assert sure is not None
    assert (sure.by, sure.confidence > 0.9) == ("km", True)
    strange = by.before(STRANGE)
    assert strange is not None
    assert (strange.by, strange.silent, strange.confidence > 0.9) == ("", True, True)
    assert by.before(UNSURE) is None
    read = by.after(UNSURE, FOUND)
    assert (read.by, read.silent, read.confidence > 0.8) == ("rag", False, True)
    left = by.after(UNSURE, REFUSED)
    assert (left.by, left.silent) == ("", True)
    assert left.confidence == 1 - left.says > 0.5
    assert by.after(STRANGE, NOTHING).silent


def test_an_answer_that_is_refused_is_never_given() -> None:
    refuses = Closed("The text does not say.", 0.0, (1.0, 1.0, 1.0), 1.0, True, 1.0)
    by = Calibration({**PRIOR, "km": (99.0, *PRIOR["km"][1:]), "km_read": (99.0, *PRIOR["km_read"][1:])})
    assert by.before(refuses) is None
    assert by.after(refuses, REFUSED).by == ""


def test_what_is_not_likely_enough_is_not_known() -> None:
    says = (99.0, *[0.0] * 13)
    by = Calibration({**PRIOR, "km_read": (-2.0, *[0.0] * 13), "read": (-3.0, *[0.0] * 13), "says_read": says})
    verdict = by.after(UNSURE, FOUND)
    assert (verdict.by, verdict.silent) == ("", False)
    assert verdict.confidence == pytest.approx(1 / (1 + math.exp(2.0)))


def test_the_exam_of_the_passage_counts() -> None:
    chances = []
    for known in (0.1, None, 0.9):
        verdict = by_prior().before(Closed("Ann", -0.2, (1.0, 1.0, 1.0), 1.0, False, known))
        chances.append(verdict.confidence if verdict else 0.0)
    assert chances == sorted(chances)
    assert chances[0] < chances[1] < chances[2]
    assert shrunk(0, 0, 0.75) == 0.75
    assert shrunk(3, 3, 0.75) == pytest.approx(0.9)
    assert shrunk(0, 2, 0.5) == 0.25


# --- fitting


def examples(count: int, right: float, seed: int = 0) -> list[Example]:
    """As many with an answer as without; of the module's answers, all equally sure, so many are right."""
    drawn = random.Random(seed)
    found = []
    for place in range(count):
        km = drawn.random() < right
        found.append(Example(f"a{place}", SURE, FOUND, km, True, True))
        found.append(Example(f"b{place}", STRANGE, REFUSED, False, False, False))
    return found


def test_nothing_to_fit_on_leaves_the_prior() -> None:
    assert fit([]) == Calibration(PRIOR)
    held = fit(examples(20, 0.2), pull=1e9)
    for name, curve in held.curves.items():
        assert curve == pytest.approx(PRIOR[name], abs=1e-3)


def test_a_module_that_is_wrong_where_it_is_sure_is_believed_less() -> None:
    before = by_prior().before(SURE)
    assert before is not None
    away = []
    for count in (5, 20, 200):
        asked = examples(count, 0.3)
        right = fmean(one.km_right for one in asked if one.answerable)
        calibration = fit(asked)
        assert (calibration.questions, calibration.strangers) == (count, count)
        z = sum(a * b for a, b in zip(calibration.curves["km"], SURE.values(), strict=True))
        away.append(1 / (1 + math.exp(-z)) - right)
    assert before.confidence - 0.4 > away[0] > away[1] > away[2]
    assert away[2] == pytest.approx(0, abs=0.02)


def test_the_error_is_measured_on_what_was_left_out() -> None:
    few = fit([Example("only", SURE, FOUND, True, True, True)] * 9)
    assert few.error is None  # one fact cannot be left out and be fitted on
    good, bad = fit(examples(60, 1.0)), fit(examples(60, 0.5))
    assert good.error is not None
    assert bad.error is not None
    assert good.error < 0.05
    assert bad.error < 0.2


def test_the_error_by_hand() -> None:
    said = [(0.95, True), (0.95, False), (0.15, False), (0.15, False), (1.0, True)]
    # the bin from 0.9: 2.9 said and 2 right; the one from 0.1: 0.3 and 0
    assert calibration_error(said) == pytest.approx((0.9 + 0.3) / 5)
    assert calibration_error([]) == 0.0


def test_what_a_confidence_speaks_of() -> None:
    by = by_prior()
    one = Example("", UNSURE, FOUND, False, True, True)
    assert was_right(by.after(UNSURE, FOUND), one)
    assert not was_right(by.after(UNSURE, REFUSED), one)
    other = Example("", UNSURE, REFUSED, False, False, False)
    assert was_right(by.after(UNSURE, REFUSED), other)


def test_it_is_kept_as_json() -> None:
    calibration = fit(examples(10, 0.5))
    data = json.loads(json.dumps(calibration.as_json()))
    assert Calibration.from_json(data) == calibration
    for broken in (None, {}, {**data, "curves": {}}, {**data, "curves": {**data["curves"], "km": [1.0]}}):
        with pytest.raises((TypeError, KeyError, ValueError)):
            Calibration.from_json(broken)


@given(
    st.floats(-50, 0), st.tuples(*[st.floats(0, 1)] * 3), st.floats(0, 1), st.booleans(), st.none() | st.floats(0, 1)
)
def test_every_answer_has_a_chance(
    logprob: float, supported: tuple[float, float, float], here: float, refused: bool, known: float | None
) -> None:
    by = by_prior()
    verdict = by.reply(Closed("Ann", logprob, supported, here, refused, known), FOUND)
    assert 0 <= verdict.confidence <= 1
    assert 0 <= verdict.says <= 1


# --- what is looked at


def test_what_is_seen_without_reading() -> None:
    tokens = tuple(TokenLogprobs("x", value, ()) for value in (-0.2, -0.6))
    passage = Passage("mill", "Ann Lee built the mill in 1871.", 1.0)
    mentions = Mentions.of(passage.text)
    made = Generation("Ann Lee", 20, 2, True, tokens)
    seen = confidence.closed("Who built the Oslo mill in 1871?", made, [passage], mentions, False, 0.5)
    assert seen.logprob == pytest.approx(-0.4)
    assert seen.here == 0.5  # of Oslo and 1871 one
    assert seen.supported == support.features("Who built the Oslo mill in 1871?", "Ann Lee", [passage])
    assert len(seen.values()) == len(PRIOR["km"])
    assert len(FOUND.values(seen)) == len(PRIOR["read"])
    assert confidence.mean_logprob(Generation("", 20, 0, True, ())) == confidence.LEAST
