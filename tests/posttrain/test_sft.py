"""SFT: what is learnt is the completion and its end, from the same rows in every arm, stopped or not."""

import copy
import json
import re
import shutil

import pytest
import torch
import trl
from transformers import AutoTokenizer

from tests.posttrain.conftest import ARMS, LONG, VOCABULARY, Stop, quiet, stop_at, training_problems, weights
from tokentrial.arms import arm as arms
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.posttrain import sft as sfts
from tokentrial.posttrain.sft import encode
from tokentrial.store.files import read_json
from tokentrial.tasks.task import Example
from tokentrial.tasks.training_examples import epoch_examples
from tokentrial.tasks.word_problems import WordProblems

EOS = VOCABULARY.eos
FACT = Example("t", "q", "User: 6*9=54, so?\nAssistant:", " 6*9=54 and 16*9=144\n#### 54", "54")


def settings(sources="[{source: word_problems}]", epochs=1, lr=0.002, **more):
    """An override for one stage of SFT."""
    given = {"batch": 16, "max_length": 128, "held": 1, "checkpoint_every": 500} | more
    rest = ", ".join(f"{key}: {value}" for key, value in given.items())
    return f"sft={{stages: [{{sources: {sources}, epochs: {epochs}, lr: {lr}}}], {rest}}}"


@pytest.fixture
def fine_tune(train_stage, untrained, tmp_path):
    """`fine_tune(override, arm, name, progress)`: folder and record of SFT on the untrained model."""

    def train(override, arm="baseline", name="sft", progress=quiet, seed=1):
        folder = tmp_path / name
        return folder, train_stage("sft", folder, untrained(arm), arm, seed, [override], progress)

    return train


@pytest.fixture
def watched(monkeypatch):
    """Every batch that any SFTTrainer trains on: its tensors, the loss, the weights as they were; and the trainer's
    class, which keeps the losses of what it evaluates."""
    seen = []

    class Watched(trl.SFTTrainer):
        keep_weights = False
        held_losses = ()

        def training_step(self, model, inputs, *rest, **named):
            before = copy.deepcopy(model.state_dict()) if Watched.keep_weights else None
            batch = {key: value.clone() for key, value in inputs.items()}
            loss = super().training_step(model, inputs, *rest, **named)
            seen.append((batch, float(loss), before))
            return loss

        def prediction_step(self, *given, **named):
            loss, *rest = super().prediction_step(*given, **named)
            Watched.held_losses += (float(loss),)
            return (loss, *rest)

    monkeypatch.setattr(trl, "SFTTrainer", Watched)
    return seen, Watched


def rows_of(seen):
    """Ids and labels of every row of these batches, without the padding."""
    for batch, _, _ in seen:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
            assert (labels[length:] == -100).all()
            yield ids[:length], labels[:length]


# what is labelled


@pytest.mark.parametrize("arm", ARMS)
def test_the_prompt_is_read_and_the_completion_and_its_end_are_learnt(untrained, arm):
    """Defect R3: the prompt goes in as it is. Defect R8: eos is among the labels."""
    treatment, tokenizer = arms.get_arm(arm), AutoTokenizer.from_pretrained(untrained(arm))
    row = encode(tokenizer, treatment, FACT, 128)
    prompt = VOCABULARY.encode(FACT.prompt).tolist()
    completion = VOCABULARY.encode_arm(treatment, FACT.completion).tolist()
    assert row.input_ids == [*prompt, *completion, EOS]
    assert row.labels == [-100] * len(prompt) + [*completion, EOS]
    assert not row.truncated
    token = VOCABULARY.base + list(arms.get_arm("mul_tokens").tokens).index("<MUL_6_9_54>")
    assert row.input_ids.count(token) == (arm != "baseline")
    size = len(row.input_ids)
    assert encode(tokenizer, treatment, FACT, size) == row
    assert encode(tokenizer, treatment, FACT, size - 1) == (row.input_ids[:-1], row.labels[:-1], True)  # eos is cut


@pytest.mark.parametrize("small", [8192, 0])
def test_the_loss_of_a_batch_is_the_mean_cross_entropy_of_completion_tokens(
    fine_tune, watched, untrained, monkeypatch, small
):
    """Row by row without padding, in plain logarithms: of the whole logits, and of TRL's head for many ids."""
    monkeypatch.setattr(sfts, "_SMALL_VOCABULARY", small)
    seen, trainer = watched
    trainer.keep_weights = True
    fine_tune(settings(batch=16))
    model, _ = load(untrained("baseline"))
    for batch, loss, state in seen[:: len(seen) // 4]:
        model.load_state_dict(state)
        nats = []
        for ids, labels in rows_of([(batch, loss, state)]):
            with torch.no_grad():
                scores = model(ids[None]).logits[0, :-1].double()
            of_ids = scores.logsumexp(1) - scores.gather(1, ids[1:, None])[:, 0]
            nats += of_ids[labels[1:] != -100].tolist()
        assert loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)


# the same in every arm


def test_every_arm_is_trained_on_the_same_rows_in_the_same_order_and_steps(fine_tune, watched):
    seen, _ = watched
    read, steps = {}, {}
    for arm in ARMS:
        seen.clear()
        folder, record = fine_tune(settings(epochs=2, batch=32), arm, arm)
        tokenizer, treatment = AutoTokenizer.from_pretrained(folder), arms.get_arm(arm)
        used = {i for ids, _ in rows_of(seen) for i in ids.tolist()} & set(VOCABULARY.token_ids(treatment).values())
        assert bool(used) == (arm != "baseline")
        read[arm], steps[arm] = [], record["stages"][0]["steps"]
        for ids, labels in rows_of(seen):
            # defect R8: pad is eos, and the reference masked both
            assert ids[-1] == labels[-1] == EOS
            assert EOS not in ids[:-1]
            prompt = int((labels == -100).sum())
            assert (labels[prompt:] == ids[prompt:]).all()  # the completion, without a gap
            completion = treatment.untokenize(tokenizer.decode(ids[prompt:-1]))
            read[arm].append((tokenizer.decode(ids[:prompt]), canonical(completion)))
        assert len({batch["input_ids"].shape[1] for batch, _, _ in seen}) > 1  # each as wide as its longest row
    assert read["baseline"] == read["mul_tokens"] == read["mul_append"]
    assert set(steps.values()) == {2 * -(-199 // 32)}
    # two epochs, each of every row once, in different orders
    once, again = read["baseline"][:199], read["baseline"][199:]
    assert sorted(once) == sorted(again)
    assert once != again
    left = [(example.prompt, canonical(example.completion)) for example in training_problems()]
    for row in once:
        left.remove(row)
    assert len(left) == 1  # the row that is held


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_row_asks_or_works_out_a_fact_that_its_seed_never_asks(tiny, tmp_path, seed):
    trial, never = tiny(tmp_path, *LONG, settings()), TIMES_TABLE.never_asked(seed, 3)
    assert len(never) == 12
    used = set()
    for example in epoch_examples(trial, trial.sft.stages[0].sources, seed, never):
        text = example.prompt + example.completion
        used |= {TIMES_TABLE.of(int(a), int(b)) for a, b in re.findall(r"\b(\d)\*(\d)=", text)}
        used |= {TIMES_TABLE.of(int(b), int(c)) for b, c in re.findall(r"/(\d)=(\d)\b", text)}
    assert len(used - {None}) > 15
    assert not used & never


def canonical(text):
    """Facts as a token states them: the smaller factor first."""
    arm = arms.get_arm("mul_tokens")
    return arm.untokenize(arm.rewrite(text))


def test_another_seed_sees_the_rows_in_another_order(tiny, tmp_path):
    trial = tiny(tmp_path, *LONG, settings(), "corpus.drills.holdout_folds=0")
    drawn = [epoch_examples(trial, trial.sft.stages[0].sources, seed, frozenset()) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(e.prompt for e in drawn[0]) == sorted(e.prompt for e in drawn[2])


# sources, stages, the record


def write_rows(path, count, word):
    lines = [{"prompt": f"User: {word} {i}\nAssistant:", "completion": f" {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_a_source_s_weight_says_how_often_its_rows_are_read(tiny, tmp_path):
    write_rows(tmp_path / "a.jsonl", 10, "a")
    write_rows(tmp_path / "b.jsonl", 7, "b")
    for weight_a, weight_b, of_a, of_b in ((0.5, 2, 5, 14), (1, 1.5, 10, 11), (0.2, 3, 2, 21)):
        sources = (
            f"[{{source: 'jsonl:{tmp_path}/a.jsonl', weight: {weight_a}}},"
            f" {{source: 'jsonl:{tmp_path}/b.jsonl', weight: {weight_b}}}]"
        )
        trial = tiny(tmp_path, settings(sources))
        drawn = [example.prompt for example in epoch_examples(trial, trial.sft.stages[0].sources, 1, frozenset())]
        by_source = {word: [p for p in drawn if p.startswith(f"User: {word} ")] for word in "ab"}
        assert (len(by_source["a"]), len(by_source["b"])) == (of_a, of_b)
        for word, weight in (("a", weight_a), ("b", weight_b)):
            counts = {prompt: by_source[word].count(prompt) for prompt in by_source[word]}
            assert set(counts.values()) <= {int(weight), int(weight) + (weight % 1 > 0)} - {0}
        assert drawn != by_source["a"] + by_source["b"]  # mixed, not one after the other


def test_a_row_that_is_read_twice_is_not_both_held_and_trained_on(fine_tune, watched, tmp_path):
    seen, _ = watched
    write_rows(tmp_path / "a.jsonl", 40, "a")
    _, record = fine_tune(settings(f"[{{source: 'jsonl:{tmp_path}/a.jsonl', weight: 2}}]", held=8, batch=8))
    [stage] = record["stages"]
    read = [VOCABULARY.decode_bytes(ids.numpy()[:-1]) for ids, _ in rows_of(seen)]
    times = [read.count(f"User: a {i}\nAssistant: {i}".encode()) for i in range(40)]
    assert (stage["rows"], stage["held_rows"]) == (sum(times), 8)
    assert set(times) == {0, 2}
    assert 4 <= times.count(0) <= 8  # eight rows are held, some of them the same one twice


def test_a_row_that_is_held_in_one_stage_is_trained_on_in_none(train_stage, untrained, watched, tiny, tmp_path):
    """Else the second stage would be measured on rows that the first has learnt."""
    seen, _ = watched
    for name in "ab":
        write_rows(tmp_path / f"{name}.jsonl", 40, name)
    a, b = (f"{{source: 'jsonl:{tmp_path}/{name}.jsonl'}}" for name in "ab")
    override = f"sft={{stages: [{{sources: [{a}]}}, {{sources: [{a}, {b}]}}], batch: 16, max_length: 128, held: 4}}"
    trial = tiny(tmp_path / "run", override)
    held = {e for part in trial.sft.stages for e in epoch_examples(trial, part.sources, 1, frozenset())[:4]}
    assert len(held) > 4
    record = train_stage("sft", tmp_path / "sft", untrained("baseline"), "baseline", 1, [override])
    assert [stage["held_rows"] for stage in record["stages"]] == [4, 4]
    read = {VOCABULARY.decode_bytes(ids.numpy()[:-1]).decode() for ids, _ in rows_of(seen)}
    assert len(read) == 80 - len(held)
    assert read.isdisjoint(e.prompt + e.completion for e in held)


def test_rows_are_left_out_of_every_arm_where_one_spells_their_prompt_too_long(train_stage, untrained, tmp_path):
    prompts = [f"User: {'1900 ' * times}\nAssistant:" for times in range(1, 9)]
    rows = [json.dumps({"prompt": prompt, "completion": " 7"}) + "\n" for prompt in prompts]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    overrides = [settings(f"[{{source: 'jsonl:{tmp_path}/rows.jsonl'}}]", max_length=32, batch=8)]
    overrides.append("arms=[baseline,mul_tokens,mul_append,digit_bytes]")
    spelt = [[len(VOCABULARY.encode_arm(arms.get_arm(arm), p)) for p in prompts] for arm in ("baseline", "digit_bytes")]
    fits = [sum(length < 32 for length in lengths) for lengths in spelt]
    assert 0 < fits[1] < fits[0]
    for arm in ("baseline", "digit_bytes"):
        [stage] = train_stage("sft", tmp_path / arm, untrained(arm), arm, 1, overrides)["stages"]
        assert (stage["rows"], stage["left_out"]) == (fits[1], 8 - fits[1])


def test_sources_of_which_no_row_is_drawn_are_refused(tiny, tmp_path):
    """Files that hold none, and rows that are none: tests/test_rows.py."""
    write_rows(tmp_path / "a.jsonl", 2, "a")
    trial = tiny(tmp_path, settings(f"[{{source: 'jsonl:{tmp_path}/a.jsonl', weight: 0.1}}]"))
    with pytest.raises(TrialError, match="the sources hold no row"):
        epoch_examples(trial, trial.sft.stages[0].sources, 1, frozenset())


def test_two_stages_train_one_after_the_other(fine_tune, watched, tmp_path):
    seen, _ = watched
    write_rows(tmp_path / "a.jsonl", 32, "a")
    second = f"{{sources: [{{source: 'jsonl:{tmp_path}/a.jsonl'}}], epochs: 3, lr: 0.001}}"
    first = "{sources: [{source: word_problems}], epochs: 1, lr: 0.005}"
    _, record = fine_tune(f"sft={{stages: [{first}, {second}], batch: 16, max_length: 128, held: 1}}")
    assert [(stage["rows"], stage["steps"]) for stage in record["stages"]] == [(199, 13), (31, 6)]
    assert record["stages"][0]["sources"][0]["source"] == "word_problems"
    a_row = VOCABULARY.encode("User: a").tolist()
    of_second = [all(ids[: len(a_row)].tolist() == a_row for ids in batch["input_ids"]) for batch, _, _ in seen]
    assert of_second == [False] * 13 + [True] * 6
    # the second goes on from the first: its loss is far below that of a model that knows nothing, ln 621 = 6.4
    assert seen[0][1] > 6 > seen[13][1]


def test_what_is_recorded(fine_tune, watched, untrained):
    seen, trainer = watched
    lengths = [len(VOCABULARY.encode(e.prompt)) + len(VOCABULARY.encode(e.completion)) + 1 for e in training_problems()]
    longest = sorted(lengths)[100]
    folder, record = fine_tune(settings(epochs=2, held=16, max_length=longest))
    [stage] = record["stages"]
    assert (record["condition"], record["seed"]) == ("baseline", 1)
    assert (stage["rows"], stage["held_rows"], stage["epochs"], stage["steps"]) == (184, 16, 2, 2 * 12)
    too_long = sum(length > longest for length in lengths)
    assert too_long - 16 <= stage["truncated"] <= too_long
    assert stage["longest"] == longest
    assert len(seen) == stage["steps"]
    assert stage["tokens_an_epoch"] == sum(int(batch["attention_mask"].sum()) for batch, _, _ in seen[:12])
    losses = [loss for _, loss, _ in seen]
    assert record["train_loss"] == stage["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    logged = {r["step"]: r["loss"] for r in stage["log"] if "loss" in r}
    assert logged == pytest.approx(dict(enumerate(losses, 1)), rel=1e-5)
    # the loss on held rows, after each epoch
    held = [sum(trainer.held_losses[i : i + 2]) / 2 for i in (0, 2)]  # 16 rows are two batches
    assert [r["eval_loss"] for r in stage["log"] if "eval_loss" in r] == pytest.approx(held, rel=1e-5)
    assert record["eval_loss"] == stage["eval_loss"] == pytest.approx(held[1], rel=1e-5)
    assert len(stage["held_accuracy"]) == 2
    assert all(0 <= accuracy <= 1 for accuracy in stage["held_accuracy"])
    assert record["seconds"] > 0
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    # the tokenizer goes out as it came in
    after = AutoTokenizer.from_pretrained(folder)
    assert (after.padding_side, after.pad_token_id, after.eos_token_id) == ("left", EOS, EOS)
    models = [read_json(path / "tokenizer.json")["model"] for path in (folder, untrained("baseline"))]
    assert models[0] == models[1]


def test_rows_of_which_no_completion_is_left_are_left_out_and_counted(fine_tune, tmp_path):
    """A batch without any label has no loss: 0/0, and all weights would be lost."""
    write_rows(tmp_path / "a.jsonl", 9, "a")
    first, *rest = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text(first.replace(" a ", " a b " * 30) * 4 + "".join(rest[:5]))
    source = f"[{{source: 'jsonl:{tmp_path}/a.jsonl'}}]"
    folder, record = fine_tune(settings(source, batch=1, max_length=32))
    [stage] = record["stages"]
    assert (stage["rows"], stage["left_out"], stage["steps"], stage["truncated"]) == (5, 4, 5, 0)
    assert all(parameter.isfinite().all() for parameter in load(folder)[0].parameters())
    with pytest.raises(TrialError, match=r"sft\.max_length: 8 tokens cut off every row's answer; give more"):
        fine_tune(settings(source, max_length=8))


# the end is learnt


def test_the_trained_model_stops(untrained, tuned):
    """Defect R8: the original report's models never did."""
    asked = [example.prompt for example in WordProblems(200, 1).examples("test")[:60]]
    stopped = [
        sum(completion.stopped for completion in complete(*load(folder), asked, 60, 60, line=False)) / 60
        for folder in (untrained("mul_tokens"), tuned)
    ]
    assert stopped[0] < 0.1
    assert stopped[1] > 0.9


# stopped, and gone on


def without_times(log):
    return [{key: value for key, value in of.items() if not key.endswith(("runtime", "per_second"))} for of in log]


HELD = settings(held=16, checkpoint_every=3)


@pytest.fixture(scope="module")
def undisturbed(train_stage, untrained, tmp_path_factory):
    """Weights and record of an SFT that was never stopped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sft"
    record = train_stage("sft", folder, untrained("mul_tokens"), "mul_tokens", 1, [HELD])
    return weights(folder), record["stages"][0]


def checkpoints(folder):
    """Names of those that are there, and of those that are whole."""
    found = sorted(folder.glob("sft.checkpoints/0/checkpoint-*"))
    return [path.name for path in found], [path.name for path in found if (path / "manifest.json").exists()]


@pytest.mark.parametrize("stopped", ["in a step", "as a checkpoint is written", "before any is whole", "at the end"])
def test_a_stopped_sft_goes_on_from_its_newest_whole_checkpoint(fine_tune, undisturbed, tmp_path, monkeypatch, stopped):
    """As if it had never been stopped, and with one checkpoint left. The old one stays until the new one is marked; the
    last step of all is in none, as the result follows at once."""
    save = trl.SFTTrainer._save_checkpoint

    def killed_as_it_ends(self, *given):
        save(self, *given)
        if self.state.global_step == 6:
            raise Stop

    if stopped == "at the end":
        fine_tune(HELD, "mul_tokens")
    else:
        if stopped == "as a checkpoint is written":
            monkeypatch.setattr(trl.SFTTrainer, "_save_checkpoint", killed_as_it_ends)
        with pytest.raises(Stop):
            fine_tune(HELD, "mul_tokens", progress=stop_at(4 if stopped == "before any is whole" else 8)[0])
        monkeypatch.setattr(trl.SFTTrainer, "_save_checkpoint", save)
    first = {"in a step": 6, "as a checkpoint is written": 3, "before any is whole": 3, "at the end": 9}[stopped]
    assert checkpoints(tmp_path)[1] == [f"checkpoint-{first}"]
    newest = tmp_path / "sft.checkpoints" / "0" / f"checkpoint-{first}"
    if stopped == "in a step":  # the next was being written: it has no mark, and is not trusted
        shutil.copytree(newest, newest.with_name("checkpoint-9"))
        (newest.with_name("checkpoint-9") / "manifest.json").unlink()
        (newest.with_name("checkpoint-9") / "optimizer.pt").write_bytes(b"half")
    if stopped == "before any is whole":
        (newest / "manifest.json").unlink()
        first = 0
    progress, steps = stop_at(None)
    folder, record = fine_tune(HELD, "mul_tokens", progress=progress)
    assert steps == list(range(first + 1, 13))
    assert weights(folder) == undisturbed[0]
    keys = ("train_loss", "eval_loss", "held_accuracy", "steps", "rows", "truncated", "tokens_an_epoch")
    assert [record["stages"][0][key] for key in keys] == [undisturbed[1][key] for key in keys]
    assert without_times(record["stages"][0]["log"]) == without_times(undisturbed[1]["log"])
    assert checkpoints(tmp_path) == (["checkpoint-9"], ["checkpoint-9"])
