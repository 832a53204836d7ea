"""The table of moves itself."""

import pytest

from service.statuses import JOB_ENDED, TRANSITIONS, UNIT_ENDED, JobStatus, RoundStatus, UnitStatus, sources_of


@pytest.mark.parametrize("kind", [JobStatus, RoundStatus, UnitStatus])
def test_transitions_of_one_kind_stay_within_it(kind):
    for source, targets in TRANSITIONS[kind].items():
        assert type(source) is kind
        assert {type(target) for target in targets} == {kind}


def test_sources_of_equal_texts_are_those_of_their_kind():
    """StrEnums with one text are equal: in one common table the last would have replaced the others."""
    assert sources_of(JobStatus.RUNNING) == {JobStatus.QUEUED, JobStatus.PAUSED}
    assert sources_of(UnitStatus.RUNNING) == {UnitStatus.QUEUED}


@pytest.mark.parametrize("ended", [*sorted(JOB_ENDED), *sorted(UNIT_ENDED), RoundStatus.COMPLETED, RoundStatus.FAILED])
def test_ends_are_final_and_reachable(ended):
    assert ended not in TRANSITIONS[type(ended)]
    assert sources_of(ended)
