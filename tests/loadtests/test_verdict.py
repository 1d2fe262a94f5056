"""Gates are read strictly, and a verdict is no surer than what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.conditions import (
    DRIFT,
    ConditionsError,
    conditions,
    finished,
    input_shape,
    of_two_runs,
    refuse_different,
)
from loadtests.differences import HIGHER, NONE_SHOWN, compare, rounds_of
from loadtests.findings import Decision, Outcome, Verdict
from loadtests.gates import GatesError, read_gates
from loadtests.results import Results, Side, Target, Turn
from loadtests.schedule import read_schedule
from loadtests.verdict import exit_code, judge
from tests.loadtests.rounds import compared, turn

GRAPH = {"top1": 0.93, "correct": 930, "n": 1000, "data": "cifar10"}


def served(**changes: Any) -> dict[str, Any]:
    return {"trained": True, "engine": None, "accuracy": GRAPH, "training_accuracy": None} | changes


def results(turns: Sequence[Turn], a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> Results:
    targets = {
        side: {"host": "http://localhost", "variant": f"resnet-{side}", "served": given or served()}
        for side, given in ((Side.A, a), (Side.B, b))
    }
    return Results({"targets": targets, "interleaved": True, "incomplete": "", "level": 0.99}, turns)


def verdict(gates: dict[str, float], found: Results) -> Verdict:
    return judge(gates, found, compare(found.turns))


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    return read_gates(path)


def test_gates_are_numbers_by_name(tmp_path: Path) -> None:
    assert read(tmp_path, "p99_ms = 50\nmax_accuracy_drop_points = 0\n") == {
        "p99_ms": 50.0, "max_accuracy_drop_points": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p98_ms = 5", "p98_ms: no such gate; known are p50_ms, p99_ms, failure_rate"),
        ("p99_ms = '50'", "p99_ms: found '50', expected milliseconds"),
        ("p99_ms = true", "p99_ms: found True, expected milliseconds"),
        ("p99_ms = 0", "p99_ms: found 0, expected milliseconds, above 0"),
        ("p99_ms = nan", "p99_ms: found nan"),
        ("failure_rate = 0", "above 0 (no test shows 0)"),
        ("failure_rate = 5", "failure_rate: found 5, expected a share"),
        ("min_accuracy = 91", "min_accuracy: found 91, expected top-1 as a share"),
        ("max_accuracy_drop_points = -1", "max_accuracy_drop_points: found -1"),
        ("[gates]\np99_ms = 5", "gates: no such gate"),
        ("p99_ms 5", "not TOML"),
        ("", "no gate in it"),
    ],
)
def test_what_is_no_gate_is_refused_with_file_key_and_what_was_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(GatesError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "gates.toml") in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("gates", "decision", "code"),
    [
        ({"p50_ms": 20}, Decision.SHIP, 0),
        ({"p50_ms": 20, "min_throughput_rps": 9}, Decision.DO_NOT_SHIP, 1),  # 8 a second
        ({"p50_ms": 20, "max_regression_percent": 20}, Decision.CANNOT_TELL, 3),  # it is 20, about
        ({"p50_ms": 5, "max_regression_percent": 20}, Decision.DO_NOT_SHIP, 1),
        ({"max_regression_percent": 40}, Decision.SHIP, 0),
        ({"max_regression_percent": 5}, Decision.DO_NOT_SHIP, 1),
        ({"p99_ms": 1000}, Decision.CANNOT_TELL, 3),  # 16 answers a round
    ],
)
def test_one_failing_gate_decides_and_one_undecided_leaves_it_open(
    gates: dict[str, float], decision: Decision, code: int
) -> None:
    found = verdict(gates, results(compared(10, 1.2)))
    assert found.decision is decision, found.reasons
    assert exit_code(found) == code
    assert len(found.reasons) == len(found.gates) == len(gates)


def test_the_candidate_is_judged_and_not_the_base() -> None:
    turns = compared(10, 2.0)
    assert verdict({"p50_ms": 15}, results(turns)).decision is Decision.DO_NOT_SHIP
    alone = results([each for each in turns if each.side is Side.A])
    assert judge({"p50_ms": 15}, alone, None).decision is Decision.SHIP
    regression = judge({"max_regression_percent": 5}, alone, None)
    assert regression.decision is Decision.CANNOT_TELL
    assert "nothing to compare with" in regression.reasons[0]


def test_a_reason_is_a_sentence_with_its_figures() -> None:
    (reason,) = verdict({"p50_ms": 20}, results(compared(10))).reasons
    assert reason.startswith("p50_ms holds: ")
    assert "(99 % interval " in reason
    assert reason.endswith("at most 20 ms is asked.")


def test_more_throughput_is_no_regression() -> None:
    def turns(candidate: int) -> list[Turn]:
        return [
            turn(number, place, side, [10.0] * (candidate + number if side is Side.B else 100 + number))
            for number in range(10)
            for place, side in enumerate((Side.A, Side.B, Side.B, Side.A))
        ]

    for candidate, outcome in ((150, Outcome.HOLDS), (80, Outcome.FAILS)):
        comparison = compare(turns(candidate), primary="throughput_rps")
        found = judge({"max_regression_percent": 5}, results(turns(candidate)), comparison)
        assert found.gates[0].outcome is outcome


def test_failures_are_judged_by_how_many_requests_there_were() -> None:
    few, many = ([turn(number, 0, Side.A, [10.0] * answers) for number in range(10)] for answers in (10, 600))
    assert judge({"failure_rate": 0.001}, results(few), None).decision is Decision.CANNOT_TELL
    assert judge({"failure_rate": 0.001}, results(many), None).decision is Decision.SHIP
    failing = [turn(number, 0, Side.A, [10.0] * 97, failed=3) for number in range(10)]
    found = judge({"failure_rate": 0.001, "p50_ms": 20}, results(failing), None)
    assert [each.outcome for each in found.gates] == [Outcome.FAILS, Outcome.UNDECIDED]
    assert "3.0% of the requests failed" in found.reasons[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"invalid": "sent 9 ms late"}, "sent 9 ms late"), ({"incomplete": "the service died"}, "the service died")],
)
def test_a_run_that_went_wrong_decides_nothing(change: dict[str, str], reason: str) -> None:
    turns = compared(12)
    turns[-1] = replace(turns[-1], **change)  # type: ignore[arg-type]
    for gate in ({"p50_ms": 20.0}, {"p50_ms": 1.0}):
        found = verdict(gate, results(turns))
        assert found.decision is Decision.CANNOT_TELL
        assert reason in found.reasons[0]
        assert len(found.reasons) == 2
    assert judge({"p50_ms": 1.0}, results([]), None).decision is Decision.CANNOT_TELL


@pytest.mark.parametrize(
    ("candidate", "bound", "decision", "reason"),
    [
        ({}, 0.93, Decision.SHIP, "of the exported graph, on 1,000 images of cifar10"),
        ({}, 0.94, Decision.DO_NOT_SHIP, "0.93"),
        ({"engine": {"accuracy": GRAPH | {"top1": 0.5}}}, 0.9, Decision.DO_NOT_SHIP, "of the engine"),
        ({"engine": {"accuracy": None}}, 0.9, Decision.SHIP, "of the exported graph"),
        ({"accuracy": None, "training_accuracy": GRAPH}, 0.9, Decision.SHIP, "training_accuracy, of the checkpoint"),
        ({"accuracy": None}, 0.9, Decision.CANNOT_TELL, "resnet-b has neither accuracy nor training_accuracy"),
        ({"trained": False}, 0.9, Decision.CANNOT_TELL, "resnet-b is untrained"),
    ],
)
def test_accuracy_is_what_the_service_says(
    candidate: dict[str, Any], bound: float, decision: Decision, reason: str
) -> None:
    found = verdict({"min_accuracy": bound}, results(compared(10), b=served(**candidate)))
    assert found.decision is decision
    assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("candidate", "decision"),
    [
        ({"accuracy": GRAPH | {"top1": 0.92}}, Decision.SHIP),
        ({"accuracy": GRAPH | {"top1": 0.919}}, Decision.DO_NOT_SHIP),
        ({"accuracy": GRAPH | {"data": "imagenet"}}, Decision.CANNOT_TELL),
        ({"accuracy": None, "training_accuracy": GRAPH}, Decision.CANNOT_TELL),  # a graph against a checkpoint
        ({"accuracy": None}, Decision.CANNOT_TELL),
    ],
)
def test_a_drop_is_judged_only_between_accuracies_of_the_same_thing(
    candidate: dict[str, Any], decision: Decision
) -> None:
    found = verdict({"max_accuracy_drop_points": 1.0}, results(compared(10), b=served(**candidate)))
    assert found.decision is decision, found.reasons


def run_of(turns: Sequence[Turn], host: str = "http://localhost:3000", **changes: Any) -> Results:
    """Of one variant, saved under conditions that `changes` may alter."""
    given: dict[str, Any] = {"load": read_schedule("poisson:200"), "bodies": [b"image"], "sent": "images"}
    given |= {"seed": 0, "turn_seconds": 1.0, "warm_up_seconds": 0.2, "rounds": 10} | changes
    made = conditions([(Target(host, "resnet20-preact"), served())], **given)
    return Results(finished(made), turns)


def one_side(side: Side, factor: float = 1.0) -> list[Turn]:
    return [replace(each, side=Side.A) for each in compared(10, factor, noise=0.01) if each.side is side]


def test_conditions_survive_the_file_that_they_are_saved_in(tmp_path: Path) -> None:
    run = run_of(one_side(Side.A))
    run.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json").conditions == run.conditions
    assert run.conditions["payload"]["bytes"] == [5]
    assert run.conditions["schedule"] == "poisson:200"
    assert run.conditions["finished"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"load": read_schedule("poisson:100")}, "schedule: poisson:200 and poisson:100"),
        ({"load": 4}, "users: absent and 4"),
        ({"bodies": [b"imagf"]}, "payload.sha256: "),
        ({"bodies": [b"im", b"age"]}, "payload.count: 1 and 2"),
        ({"turn_seconds": 2.0}, "turn_seconds: 1.0 and 2.0"),
        ({"seed": 1}, "seed: 0 and 1"),
        ({"host": "http://elsewhere:3000"}, "hosts: ['localhost'] and ['elsewhere']"),
    ],
)
def test_runs_under_different_conditions_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    first, second = run_of([]).conditions, run_of([], **changes).conditions
    with pytest.raises(ConditionsError) as caught:
        refuse_different(first, second)
    assert named in str(caught.value)


def test_machine_and_packages_are_conditions_and_time_commit_and_port_are_not() -> None:
    first = run_of([]).conditions
    refuse_different(first, run_of([], host="http://localhost:4000").conditions)
    refuse_different(first, first | {"commit": "another", "begun": "later", "load_average": [9.0]})
    with pytest.raises(ConditionsError, match=r"machine: .*; packages\.numpy: .* and 1\.0"):
        refuse_different(first, first | {"machine": "another", "packages": first["packages"] | {"numpy": "1.0"}})


def test_a_trace_is_a_condition_by_its_times_and_not_by_its_name(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("1\n2\n")
    first = run_of([], load=read_schedule(f"trace:{trace}")).conditions
    trace.write_text("1\n3\n")
    with pytest.raises(ConditionsError, match="trace_sha256"):
        refuse_different(first, run_of([], load=read_schedule(f"trace:{trace}")).conditions)


def test_two_runs_are_compared_unpaired_and_the_verdict_says_what_that_means() -> None:
    both = of_two_runs(run_of(one_side(Side.A)), run_of(one_side(Side.B, 1.2)))
    comparison = compare(both.turns)
    assert comparison.rounds == 10
    assert not rounds_of(both.turns).paired
    found = comparison.differences[0]
    assert found.says == HIGHER
    assert found.change is not None
    assert found.change.estimate == pytest.approx(1.2, rel=0.02)
    assert DRIFT in judge({"p50_ms": 50}, both, comparison).reasons
    again = of_two_runs(run_of(one_side(Side.A)), run_of(one_side(Side.B)))
    assert compare(again.turns).differences[0].says == NONE_SHOWN
    with pytest.raises(ConditionsError, match="seed"):
        of_two_runs(run_of([]), run_of([], seed=1))
    with pytest.raises(ConditionsError, match="second file is a comparison"):
        of_two_runs(run_of([]), run_of(compared(1)))


def test_the_same_tensors_are_refused_to_variants_that_take_different_ones() -> None:
    small, large = ({"preprocessing": {"crop": crop}} for crop in (32, 224))
    assert input_shape({"a": small, "b": small}) == (1, 32, 32, 3)
    with pytest.raises(ConditionsError, match="a 32 x 32 pixels, b 224 x 224 pixels"):
        input_shape({"a": small, "b": large})
