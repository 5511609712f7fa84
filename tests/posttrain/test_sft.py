"""SFT: what is learnt is the completion and its end, from the same rows in every arm, stopped or not."""

import copy
import json
import re
import shutil

import pytest
import torch
import trl
from transformers import AutoTokenizer

from tests.posttrain.conftest import ARMS, LONG, VOCABULARY, Stop, quiet, stop_at
from tokentrial.arms import arm as arms
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.errors import TrialError
from tokentrial.evaluate.evaluate import load
from tokentrial.evaluate.generate import complete
from tokentrial.posttrain import sft as sfts
from tokentrial.posttrain.sft import encode, sft
from tokentrial.store.files import read_json
from tokentrial.tasks.rows import rows
from tokentrial.tasks.task import Example
from tokentrial.tasks.word_problems import WordProblems

EOS = VOCABULARY.eos
FACT = Example("t", "q", "User: 6*9=54, so?\nAssistant:", " 6*9=54 and 16*9=144\n#### 54", "54")


def settings(sources="[{source: word_problems}]", epochs=1, lr=0.002, **more):
    """An override for one stage of SFT."""
    given = {"batch": 16, "max_length": 128, "held": 1, "checkpoint_every": 500} | more
    rest = ", ".join(f"{key}: {value}" for key, value in given.items())
    return f"sft={{stages: [{{sources: {sources}, epochs: {epochs}, lr: {lr}}}], {rest}}}"


@pytest.fixture
def fine_tune(tiny, untrained, tmp_path):
    """`fine_tune(override, arm, name, progress)`: (folder, checkpoints, record) of SFT on the untrained model."""

    def make(override, arm="baseline", name="sft", progress=quiet, seed=1):
        trial = tiny(tmp_path / "run", *LONG, override)
        folder, checkpoints = tmp_path / name, tmp_path / f"{name}.checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        sft(folder, checkpoints, trial, trial.sft, arms.find(arm), seed, untrained(arm), progress)
        return folder, checkpoints, read_json(folder / "sft_results.json")

    return make


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


# what is labelled


@pytest.mark.parametrize("arm", ARMS)
def test_the_prompt_is_read_and_the_completion_and_its_end_are_learnt(untrained, arm):
    """Defect R3: the prompt goes in as it is. Defect R8: eos is among the labels."""
    treatment = arms.find(arm)
    row = encode(AutoTokenizer.from_pretrained(untrained(arm)), treatment, FACT, 128)
    prompt = VOCABULARY.encode(FACT.prompt).tolist()
    completion = VOCABULARY.encode_arm(treatment, FACT.completion).tolist()
    assert row.input_ids == [*prompt, *completion, EOS]
    assert row.labels == [-100] * len(prompt) + [*completion, EOS]
    assert not row.truncated
    token = VOCABULARY.base + list(arms.find("mul_tokens").tokens).index("<MUL_6_9_54>")
    assert row.input_ids.count(token) == (arm != "baseline")


def test_a_row_is_cut_at_the_longest_length_and_says_so(untrained):
    tokenizer, arm = AutoTokenizer.from_pretrained(untrained("baseline")), arms.find("baseline")
    whole = encode(tokenizer, arm, FACT, 128)
    size = len(whole.input_ids)
    assert encode(tokenizer, arm, FACT, size) == whole
    cut = encode(tokenizer, arm, FACT, size - 1)  # eos does not fit
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-1], whole.labels[:-1])
    assert cut.truncated


def test_in_a_padded_batch_the_true_end_is_labelled_and_the_padding_is_not(fine_tune, watched):
    """Defect R8: pad is eos, and the reference masked both."""
    seen, _ = watched
    fine_tune(settings())
    padded = 0
    for batch, _, _ in seen:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
            assert ids[length - 1 :].tolist() == [EOS] * (len(ids) - length + 1)  # the true end, then padding
            assert labels[length - 1] == EOS
            assert (labels[length:] == -100).all()
            assert EOS not in ids[: length - 1]
            taught = (labels != -100).nonzero().flatten().tolist()
            assert taught == list(range(taught[0], length))  # the completion, without a gap
            assert (labels[taught] == ids[taught]).all()
            padded += length < len(ids)
    assert padded > 50
    widths = {batch["input_ids"].shape[1] for batch, _, _ in seen}
    assert len(widths) > 1  # each batch is as wide as its longest row


@pytest.mark.parametrize("few", [8192, 0])
def test_the_loss_of_a_batch_is_the_mean_cross_entropy_of_completion_tokens(
    fine_tune, watched, untrained, monkeypatch, few
):
    """Row by row without padding, in plain logarithms: of the whole logits, and of TRL's head for many ids."""
    monkeypatch.setattr(sfts, "_FEW_IDS", few)
    seen, trainer = watched
    trainer.keep_weights = True
    fine_tune(settings(batch=8))
    model, _ = load(untrained("baseline"))
    for batch, loss, as_it_was in seen[:: len(seen) // 5]:
        model.load_state_dict(as_it_was)
        nats = []
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            row = ids[: int(mask.sum())]
            with torch.no_grad():
                logits = model(row[None]).logits[0].double()
            for position in range(1, len(row)):
                if labels[position] != -100:
                    scores = logits[position - 1]
                    nats.append(float(scores.logsumexp(0) - scores[row[position]]))
        assert loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)


# the same in every arm


def test_every_arm_is_trained_on_the_same_rows_in_the_same_order_and_steps(fine_tune, watched):
    seen, _ = watched
    read, steps = {}, {}
    for arm in ARMS:
        seen.clear()
        folder, _, record = fine_tune(settings(epochs=2), arm, arm)
        tokenizer, treatment = AutoTokenizer.from_pretrained(folder), arms.find(arm)
        assert any(token in tokenizer.decode(seen[0][0]["input_ids"].flatten()) for token in treatment.tokens) == (
            arm != "baseline"
        )
        texts = []
        for batch, _, _ in seen:
            for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
                asked = int((labels == -100).sum() - (mask == 0).sum())
                prompt, completion = ids[:asked], ids[asked : int(mask.sum()) - 1]
                texts.append((tokenizer.decode(prompt), canonical(treatment.plain(tokenizer.decode(completion)))))
        read[arm], steps[arm] = texts, record["stages"][0]["steps"]
    assert read["baseline"] == read["mul_tokens"] == read["mul_append"]
    assert set(steps.values()) == {2 * -(-199 // 16)}
    # two epochs, each of every row once, in different orders
    once, again = read["baseline"][:199], read["baseline"][199:]
    assert sorted(once) == sorted(again)
    assert once != again
    train = WordProblems(200, 1, 0, TIMES_TABLE.never_asked(1, 3)).examples("train")
    left = [(example.prompt, canonical(example.completion)) for example in train]
    for row in once:
        left.remove(row)
    assert len(left) == 1  # the row that is held


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_row_asks_or_works_out_a_fact_that_its_seed_never_asks(fine_tune, watched, seed):
    seen, _ = watched
    fine_tune(settings(batch=64), seed=seed)
    never = TIMES_TABLE.never_asked(seed, 3)
    assert len(never) == 12
    used = set()
    for batch, _, _ in seen:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            text = VOCABULARY.decode_bytes(ids[mask == 1].numpy()).decode()
            used |= {TIMES_TABLE.of(int(a), int(b)) for a, b in re.findall(r"\b(\d)\*(\d)=", text)}
            used |= {TIMES_TABLE.of(int(b), int(c)) for b, c in re.findall(r"/(\d)=(\d)\b", text)}
    assert len(used - {None}) > 15
    assert not used & never


def canonical(text):
    """Facts as a token states them: the smaller factor first."""
    arm = arms.find("mul_tokens")
    return arm.plain(arm.rewrite(text))


def test_another_seed_sees_the_rows_in_another_order(tiny, tmp_path):
    trial = tiny(tmp_path, *LONG, settings(), "corpus.drills.never_asked_folds=0")
    drawn = [rows(trial, trial.sft.stages[0].sources, seed, frozenset()) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(e.prompt for e in drawn[0]) == sorted(e.prompt for e in drawn[2])


# sources, stages, the record


def write_rows(path, count, word):
    made = [{"prompt": f"User: {word} {i}\nAssistant:", "completion": f" {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


def test_a_source_s_weight_says_how_often_its_rows_are_read(tiny, tmp_path):
    write_rows(tmp_path / "a.jsonl", 10, "a")
    write_rows(tmp_path / "b.jsonl", 7, "b")
    for weight_a, weight_b, of_a, of_b in ((0.5, 2, 5, 14), (1, 1.5, 10, 11), (0.2, 3, 2, 21)):
        sources = (
            f"[{{source: 'jsonl:{tmp_path}/a.jsonl', weight: {weight_a}}},"
            f" {{source: 'jsonl:{tmp_path}/b.jsonl', weight: {weight_b}}}]"
        )
        trial = tiny(tmp_path, settings(sources))
        drawn = [example.prompt for example in rows(trial, trial.sft.stages[0].sources, 1, frozenset())]
        by_source = {word: [p for p in drawn if p.startswith(f"User: {word} ")] for word in "ab"}
        assert (len(by_source["a"]), len(by_source["b"])) == (of_a, of_b)
        for word, weight in (("a", weight_a), ("b", weight_b)):
            counts = {prompt: by_source[word].count(prompt) for prompt in by_source[word]}
            assert set(counts.values()) <= {int(weight), int(weight) + (weight % 1 > 0)} - {0}
        assert drawn != by_source["a"] + by_source["b"]  # mixed, not one after the other


def test_a_row_that_is_read_twice_is_not_both_held_and_trained_on(fine_tune, watched, tmp_path):
    seen, _ = watched
    write_rows(tmp_path / "a.jsonl", 40, "a")
    _, _, record = fine_tune(settings(f"[{{source: 'jsonl:{tmp_path}/a.jsonl', weight: 2}}]", held=8, batch=4))
    [stage] = record["stages"]
    rows_read = [
        VOCABULARY.decode_bytes(ids[mask == 1].numpy())
        for batch, _, _ in seen
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(rows_read) == stage["rows"]
    times = [rows_read.count(f"User: a {i}\nAssistant: {i}".encode()) for i in range(40)]
    assert stage["held_rows"] == 8
    assert set(times) == {0, 2}
    assert 4 <= times.count(0) <= 8  # eight rows are held, some of them the same one twice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not found; expected a file of lines with prompt and completion"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', "line 2: expected prompt and completion"),
        ('{"prompt": "a"\n', "line 1: expected prompt and completion"),
        ("", "the sources hold no row"),
    ],
)
def test_a_file_of_rows_that_is_none_is_named(tiny, tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.jsonl").write_text(text)
    trial = tiny(tmp_path, settings(f"[{{source: 'jsonl:{tmp_path}/a.jsonl'}}]"))
    with pytest.raises(TrialError, match=message):
        rows(trial, trial.sft.stages[0].sources, 1, frozenset())


def test_two_stages_train_one_after_the_other(fine_tune, watched, tmp_path):
    seen, _ = watched
    write_rows(tmp_path / "a.jsonl", 32, "a")
    second = f"{{sources: [{{source: 'jsonl:{tmp_path}/a.jsonl'}}], epochs: 3, lr: 0.001}}"
    first = "{sources: [{source: word_problems}], epochs: 1, lr: 0.005}"
    _, _, record = fine_tune(f"sft={{stages: [{first}, {second}], batch: 16, max_length: 128, held: 1}}")
    assert [stage["steps"] for stage in record["stages"]] == [13, 6]
    assert [stage["rows"] for stage in record["stages"]] == [199, 31]
    assert next(stage["sources"][0]["source"] for stage in record["stages"]) == "word_problems"
    a_row = VOCABULARY.encode("User: a").tolist()
    of_second = [all(ids[: len(a_row)].tolist() == a_row for ids in batch["input_ids"]) for batch, _, _ in seen]
    assert of_second == [False] * 13 + [True] * 6
    # the second goes on from the first: its loss is far below that of a model that knows nothing, ln 621 = 6.4
    assert seen[0][1] > 6
    assert seen[13][1] < 6


def test_what_is_recorded(fine_tune, watched):
    seen, trainer = watched
    train = WordProblems(200, 1, 0, TIMES_TABLE.never_asked(1, 3)).examples("train")
    lengths = [len(VOCABULARY.encode(e.prompt)) + len(VOCABULARY.encode(e.completion)) + 1 for e in train]
    longest = sorted(lengths)[100]
    folder, _, record = fine_tune(settings(epochs=2, held=16, max_length=longest))
    [stage] = record["stages"]
    assert (record["condition"], record["seed"]) == ("baseline", 1)
    assert (stage["rows"], stage["held_rows"], stage["epochs"], stage["steps"]) == (184, 16, 2, 2 * 12)
    too_long = sum(length > longest for length in lengths)
    assert 16 < too_long < 184
    assert too_long - 16 <= stage["truncated"] <= too_long
    assert stage["longest"] == longest
    assert len(seen) == stage["steps"]
    assert stage["tokens_an_epoch"] == sum(int(batch["attention_mask"].sum()) for batch, _, _ in seen[:12])
    losses = [loss for _, loss, _ in seen]
    assert record["train_loss"] == stage["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    logged = {r["step"]: r["loss"] for r in stage["log"] if "loss" in r}
    assert logged == pytest.approx(dict(enumerate(losses, 1)), rel=1e-5)
    # the loss on held rows, after each epoch
    first, second = (sum(trainer.held_losses[i : i + 2]) / 2 for i in (0, 2))  # 16 rows are two batches
    assert [r["eval_loss"] for r in stage["log"] if "eval_loss" in r] == pytest.approx([first, second], rel=1e-5)
    assert record["eval_loss"] == stage["eval_loss"] == pytest.approx(second, rel=1e-5)
    assert len(stage["held_accuracy"]) == 2
    assert all(0 <= accuracy <= 1 for accuracy in stage["held_accuracy"])
    assert record["seconds"] > 0
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}


def test_the_tokenizer_goes_out_as_it_came_in(fine_tune, untrained):
    folder, _, _ = fine_tune(settings(), "mul_tokens")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (untrained("mul_tokens"), folder))
    text = "so <MUL_6_9_54> and\n 54"
    assert before(text)["input_ids"] == after(text)["input_ids"]
    assert VOCABULARY.base + list(arms.find("mul_tokens").tokens).index("<MUL_6_9_54>") in after(text)["input_ids"]
    assert (after.padding_side, after.pad_token_id, after.eos_token_id) == ("left", EOS, EOS)
    assert (
        read_json(folder / "tokenizer.json")["model"] == read_json(untrained("mul_tokens") / "tokenizer.json")["model"]
    )


def test_rows_of_which_no_completion_is_left_are_left_out_and_counted(fine_tune, tmp_path, weights):
    """A batch without any label has no loss: 0/0, and all weights would be lost."""
    made = [{"prompt": "User: " + "a b " * 30 + "\nAssistant:", "completion": " 1"}] * 4
    made += [{"prompt": f"User: {i}\nAssistant:", "completion": " 1"} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    source = f"[{{source: 'jsonl:{tmp_path}/a.jsonl'}}]"
    folder, _, record = fine_tune(settings(source, batch=1, max_length=32))
    [stage] = record["stages"]
    assert (stage["rows"], stage["left_out"], stage["steps"], stage["truncated"]) == (5, 4, 5, 0)
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    with pytest.raises(TrialError, match=r"sft\.max_length: 2 tokens hold no row's prompt; give more"):
        fine_tune(settings(source, max_length=2))


# the end is learnt


def test_the_trained_model_stops(untrained, tuned):
    """Defect R8: the reference's models never did."""
    examples = WordProblems(200, 1).examples("test")[:60]
    stopped = {}
    for name, folder in (("untrained", untrained("baseline")), ("tuned", tuned("baseline"))):
        model, tokenizer = load(folder)
        completions = complete(model, tokenizer, [e.prompt for e in examples], 60, 60, line=False)
        stopped[name] = sum(completion.stopped for completion in completions) / len(completions)
    assert stopped["untrained"] < 0.1
    assert stopped["tuned"] > 0.9


# stopped, and gone on


HELD = {"held": 16, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def undisturbed_sft(tiny, untrained, tmp_path_factory):
    """Folder of an SFT that was never stopped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sft"
    folder.mkdir()
    trial = tiny(folder, *LONG, settings(**HELD))
    arm = arms.find("mul_tokens")
    sft(folder, folder / "checkpoints", trial, trial.sft, arm, 1, untrained("mul_tokens"), quiet)
    return folder


def marked(checkpoints):
    return sorted(path.parent.name for path in checkpoints.rglob("manifest.json"))


def go_on(fine_tune, undisturbed_sft, weights, same):
    """Run again; the steps it took. It must end as if it had never been stopped."""
    progress, steps = stop_at(None)
    folder, checkpoints, record = fine_tune(settings(**HELD), "mul_tokens", progress=progress)
    assert same(weights(folder), weights(undisturbed_sft))
    before = read_json(undisturbed_sft / "sft_results.json")
    keys = ("train_loss", "eval_loss", "held_accuracy", "steps", "rows", "truncated", "tokens_an_epoch")
    assert {k: record["stages"][0][k] for k in keys} == {k: before["stages"][0][k] for k in keys}
    assert marked(checkpoints) == ["checkpoint-12"]  # the older ones are pruned
    assert [path.name for path in (checkpoints / "0").glob("checkpoint-*")] == ["checkpoint-12"]
    return steps


def test_a_stopped_sft_goes_on_from_its_newest_whole_checkpoint(fine_tune, undisturbed_sft, tmp_path, weights, same):
    with pytest.raises(Stop):
        fine_tune(settings(**HELD), "mul_tokens", progress=stop_at(8)[0])
    assert marked(tmp_path / "sft.checkpoints") == ["checkpoint-6"]
    # the next was being written: it has no mark, and is not trusted
    of_stage = tmp_path / "sft.checkpoints" / "0"
    shutil.copytree(of_stage / "checkpoint-6", of_stage / "checkpoint-9")
    (of_stage / "checkpoint-9" / "manifest.json").unlink()
    (of_stage / "checkpoint-9" / "optimizer.pt").write_bytes(b"half")
    assert go_on(fine_tune, undisturbed_sft, weights, same) == [7, 8, 9, 10, 11, 12]


def test_without_a_whole_checkpoint_it_begins_anew(fine_tune, undisturbed_sft, tmp_path, weights, same):
    with pytest.raises(Stop):
        fine_tune(settings(**HELD), "mul_tokens", progress=stop_at(4)[0])
    (tmp_path / "sft.checkpoints" / "0" / "checkpoint-3" / "manifest.json").unlink()
    assert go_on(fine_tune, undisturbed_sft, weights, same) == list(range(1, 13))


def test_stopped_after_its_last_step_it_only_writes_its_result(fine_tune, undisturbed_sft, weights, same):
    fine_tune(settings(**HELD), "mul_tokens")
    assert go_on(fine_tune, undisturbed_sft, weights, same) == []


def test_the_old_checkpoint_stays_until_the_new_one_is_marked(
    fine_tune, undisturbed_sft, tmp_path, weights, same, monkeypatch
):
    save = trl.SFTTrainer._save_checkpoint

    def killed_as_it_ends(self, *given):
        save(self, *given)
        if self.state.global_step == 6:
            raise Stop

    monkeypatch.setattr(trl.SFTTrainer, "_save_checkpoint", killed_as_it_ends)
    with pytest.raises(Stop):
        fine_tune(settings(**HELD), "mul_tokens")
    monkeypatch.undo()
    assert marked(tmp_path / "sft.checkpoints") == ["checkpoint-3"]
    assert go_on(fine_tune, undisturbed_sft, weights, same) == list(range(4, 13))
