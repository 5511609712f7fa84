"""Facts of other kinds through the whole smoke trial: no code is needed for them."""

import pytest

from tokentrial.arms.families import facts_of
from tokentrial.run.run import run
from tokentrial.store.files import read_json


@pytest.mark.parametrize(
    ("facts", "table"),
    [
        pytest.param("{csv: tests/capitals.csv}", "fact_table", marks=pytest.mark.slow),
        pytest.param("{family: addition}", "add_table", marks=pytest.mark.slow),
        pytest.param("{range: [1, 12]}", "mul_table", marks=pytest.mark.slow),
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
    made = facts_of(trial.facts)
    assert report["missing"] == []
    assert report["gate"]["failed"]  # so small a model has learnt nothing: there is no verdict
    for stage in ("pretrain", "sft", "grpo"):
        assert set(report["outcomes"][f"{stage}/{table}/never_asked/choice_logprob"]["per_seed"]) == set(trial.arms)
    assert report["facts"] == {"table": table, "facts": len(made), "choice_floor": pytest.approx(made_floor(made))}
    served = read_json(trial.folder / "corpus" / "exposure.json")["served"]["mul_tokens"]["1"]
    assert set(served["facts"]) == {fact.equation for fact in made}
    assert served["fact_tokens"] > 100
    never = {fact.equation for fact in made.never_asked(1, 3)}
    assert not any(served["facts"][equation]["question"] + served["facts"][equation]["statement"] for equation in never)
    assert (trial.folder / "report.html").stat().st_size > 10_000


def made_floor(facts):
    import math

    return -math.log(len({fact.answer for fact in facts}))
