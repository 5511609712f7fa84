"""Facts of other kinds through the whole smoke trial: no code is needed for them."""

import math

import pytest

from tokentrial.facts.families import build_facts
from tokentrial.run.run import run
from tokentrial.store.files import read_json


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "table"),
    [
        ("{csv: tests/capitals.csv}", "fact_table"),
        ("{family: addition}", "add_table"),
        ("{range: [1, 12]}", "mul_table"),
    ],
)
def test_a_trial_of_other_facts_goes_through_every_stage(ladder, tmp_path, inline, facts, table):
    primary = f"pretrain/{table}/never_asked/accuracy"
    trial = ladder(
        tmp_path / "run",
        f"facts={facts}",
        "arms=[baseline,mul_tokens]",
        "pretrain.steps=45",  # so that every fact is served
        "corpus.epochs=2",
        f"verdict={{primary: {{outcome: {primary}, contrast: mul_tokens - baseline}}}}",
    )
    report = run(trial)
    made = build_facts(trial.facts)
    assert report["missing"] == []
    assert report["gate"]["failed"]  # so small a model has learnt nothing: there is no verdict
    for stage in ("pretrain", "sft", "grpo"):
        assert set(report["outcomes"][f"{stage}/{table}/never_asked/choice_logprob"]["per_seed"]) == set(trial.arms)
    floor = -math.log(len({fact.answer for fact in made}))
    questions = report["facts"].pop("questions")  # each with its place in the heat map
    assert set(questions) == {wording.question for fact in made for wording in fact.wordings}
    assert report["facts"] == {"table": table, "facts": len(made), "choice_floor": pytest.approx(floor)}
    served = read_json(trial.folder / "corpus" / "exposure.json")["served"]["mul_tokens"]["1"]
    assert set(served["facts"]) == {fact.equation for fact in made}
    assert served["fact_tokens"] > 100
    never = {fact.equation for fact in made.never_asked(1, 3)}
    assert not any(served["facts"][equation]["question"] + served["facts"][equation]["statement"] for equation in never)
    assert (trial.folder / "report.html").stat().st_size > 10_000
