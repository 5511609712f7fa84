"""The tasks of the corpus: the same files whoever does them, what is done is kept, and failures reach the caller."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.conftest import jsonl_lines
from tokentrial.arms import arm as arms
from tokentrial.corpus import text as texts_module
from tokentrial.corpus.exposure import expose
from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.readers import InputSplit
from tokentrial.corpus.text import TextTasks
from tokentrial.errors import SettingsError, TrialError
from tokentrial.executors.progress import Progress
from tokentrial.steps.corpus import make
from tokentrial.store.files import read_json

FILES = 8
EACH_FILE = "corpus.task_bytes=1"  # a task
ACCOUNTS = ("manifest.json", "meta.json", "bytes.json", "exposure.json", "audit.json")


@pytest.fixture(scope="module")
def folder(prose, tmp_path_factory):
    """The prose in eight files of ten documents."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(FILES):
        texts = prose[number * 10 : number * 10 + 10]
        (folder / f"{number}.jsonl").write_bytes(jsonl_lines(texts))
    return folder


@pytest.fixture(scope="module")
def planned(tiny, folder):
    """`planned(run folder, *overrides)`: the plan of a corpus in eight tasks."""
    return lambda run, *overrides: CorpusPlan(tiny(run, f"corpus.source=jsonl:{folder}", EACH_FILE, *overrides))


@pytest.fixture(scope="module")
def whole(planned, tmp_path_factory):
    """The corpus as one process writes it, task by task."""
    plan = planned(tmp_path_factory.mktemp("whole") / "run")
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    return plan


def written(plan):
    """Every file of text, drills, surveys and patches; the step's own record of time and place left out."""
    made = [path for folder, _ in plan.steps for path in folder.glob("*") if path.is_file()]
    return {str(path.relative_to(plan.folder)): path.read_bytes() for path in made if path.name not in ACCOUNTS}


# who does the work


@pytest.mark.parametrize(
    "executor",
    [
        "workers=2",
        pytest.param("workers=1", marks=pytest.mark.slow),
        pytest.param("workers=8", marks=pytest.mark.slow),
        pytest.param("executor=ray", marks=pytest.mark.slow),
    ],
)
def test_every_file_is_the_same_from_any_number_of_workers_here_and_on_ray(planned, whole, tmp_path, executor):
    if executor == "executor=ray":
        pytest.importorskip("ray", reason="it is in tokentrial[scale]")
    plan = planned(tmp_path / "run", executor)
    make(plan, Progress())
    assert written(plan) == written(whole)
    assert len(written(plan)) > 30
    assert [fingerprint for _, fingerprint in plan.steps] == [fingerprint for _, fingerprint in whole.steps]
    assert [path.name for path in plan.trial.folder.iterdir() if "tasks" in path.name] == []


def test_a_finished_task_is_not_done_again_and_one_that_is_gone_is(planned, whole, tmp_path, monkeypatch):
    plan, begun, write = planned(tmp_path / "run"), [], texts_module._write

    def stopped_at_the_sixth(folder, *arguments):
        begun.append(folder.name[:5])
        if len(begun) == 6:
            raise KeyboardInterrupt
        return write(folder, *arguments)

    monkeypatch.setattr(texts_module, "_write", stopped_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        prepare_text(plan)
    [tasks] = (tmp_path / "run" / "corpus.tasks").iterdir()
    (tasks / "00003").rename(tasks / "00003.another-machine.1.partial")  # as if it had been killed before its end
    prepare_text(plan)
    assert begun == [f"{rank:05d}" for rank in (0, 1, 2, 3, 4, 5, 3, 5, 6, 7)]
    assert not tasks.parent.exists()
    shards = {name: data for name, data in written(plan).items() if name.endswith(".npy")}
    assert shards.items() <= written(whole).items()


def test_records_are_read_once_a_task_however_many_there_are(planned, tmp_path, monkeypatch):
    """The bookkeeping does not grow with the square of the tasks."""
    reads, read = [], texts_module.read_json
    monkeypatch.setattr(texts_module, "read_json", lambda path, *keys: reads.append(path) or read(path, *keys))
    prepare_text(planned(tmp_path / "run", "corpus.tokens=budget"))
    assert len(reads) == len(set(reads)) <= FILES


# failures


@pytest.mark.parametrize("kind", [TrialError, SettingsError])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_task_fails_alike_in_a_worker_and_here(tiny, folder, tmp_path, kind, workers):
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in folder.iterdir():
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        pq.write_table(pa.table({"text": texts}), bad / f"{path.stem}.parquet")
    if kind is SettingsError:
        pq.write_table(pa.table({"body": ["no text"]}), bad / "5.parquet")
    else:
        (bad / "5.parquet").write_bytes((bad / "5.parquet").read_bytes()[:-9])
    plan = CorpusPlan(tiny(tmp_path / "run", f"corpus.source=parquet:{bad}", EACH_FILE, f"workers={workers or 1}"))
    with pytest.raises(TrialError, match=r"5\.parquet") as raised:
        make(plan, Progress()) if workers else prepare_text(plan)
    assert type(raised.value) is kind
    assert not plan.folder.exists()


# as many tokens as wanted


@pytest.fixture(scope="module")
def tokens_of_tasks(whole):
    """Train tokens of each task of the whole corpus: its first shards are the first task's."""
    counts = [shards["train"] for shards in read_json(whole.folder / "text.json")["shards_of_task"]]
    sizes = iter([len(np.load(path)) for path in sorted(whole.folder.glob("text_train_*.npy"))])
    return [sum(next(sizes) for _ in range(count)) for count in counts]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(0, 10), st.data())
def test_the_first_tasks_that_give_the_tokens_are_needed_and_the_last_wave_gives_them(
    tmp_path_factory, tokens, a_byte, data
):
    """Whatever was expected of a byte, and whatever a run before has done."""
    target = data.draw(st.integers(1, max(1, sum(tokens))))
    records = [{"tokens": {"train": number}, "source_bytes": 1} for number in tokens]
    inputs = [InputSplit("jsonl", ("",), None, 1)] * len(tokens)
    tasks = TextTasks(tmp_path_factory.mktemp("tasks"), inputs, target)
    done = {rank: records[rank] for rank in data.draw(st.sets(st.sampled_from(range(len(tokens)))))}
    while ranks := tasks.pending(done, a_byte):
        assert not done.keys() & {*ranks}
        done |= {rank: records[rank] for rank in ranks}
    enough = np.cumsum(tokens) >= target
    needed = int(enough.argmax()) + 1 if enough.any() else len(tokens)
    assert tasks.needed(done) == list(range(needed))
    assert {*range(len(tokens))} == done.keys() | {*TextTasks(tasks.folder, inputs, None).pending(done, a_byte)}


def test_of_the_whole_corpus_the_first_shards_are_taken(planned, whole, tokens_of_tasks, tmp_path):
    wanted = sum(tokens_of_tasks[:3]) - 1
    plan = planned(tmp_path / "run", f"corpus.tokens={wanted}")
    prepare_text(plan)
    text = read_json(plan.folder / "text.json")
    assert (text["tasks"], text["short"], text["tokens"]["train"]) == (3, False, wanted + 1)
    assert text["documents_read"] == 30
    assert text["shards_of_task"] == read_json(whole.folder / "text.json")["shards_of_task"][:3]
    shards = {name: data for name, data in written(plan).items() if name.endswith(".npy")}
    for split in ("train", "val"):
        count = sum(counts[split] for counts in text["shards_of_task"])
        names = {f"text_{split}_{index:06d}.npy" for index in range(count)}
        assert {name for name in shards if split in name} == names
    assert shards.items() <= written(whole).items()


def test_a_source_that_ends_early_is_an_error_unless_that_is_allowed(planned, whole, tokens_of_tasks, tmp_path):
    available = sum(tokens_of_tasks)
    plan = planned(tmp_path / "run", f"corpus.tokens={available + 1}")
    counts = rf"ended after {available:,} train tokens of {available + 1:,} \(80 documents of 8 files\)"
    with pytest.raises(TrialError, match=counts + r".*corpus\.tokens.*corpus\.allow_short=true"):
        prepare_text(plan)
    assert not plan.folder.exists()
    allowed = planned(tmp_path / "run", f"corpus.tokens={available + 1}", "corpus.allow_short=true")
    lasting = planned(tmp_path / "lasting", f"corpus.tokens={available}")
    for prepared, short in ((allowed, True), (lasting, False)):
        prepare_text(prepared)
        assert read_json(prepared.folder / "text.json")["short"] is short
        shards = {name: data for name, data in written(prepared).items() if name.endswith(".npy")}
        assert shards.items() <= written(whole).items()
    assert plan.text_fingerprint == allowed.text_fingerprint  # the same corpus: allowing it is not part of it


EVERY = pytest.param(arms.arm_names(), marks=pytest.mark.slow)


@pytest.mark.parametrize("names", [["baseline", "mul_tokens", "one_slot"], EVERY])
@pytest.mark.parametrize("match", [pytest.param("tokens", marks=pytest.mark.slow), "bytes"])
@pytest.mark.parametrize("share", [0.6, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.3))])
def test_a_budget_of_text_lasts_for_every_arm(planned, tokens_of_tasks, tmp_path, share, match, names):
    # the steps take six tenths of the text that there is
    steps = int(0.6 * sum(tokens_of_tasks) / (1 - share) / 512)
    budget = f"pretrain.steps={steps}", "pretrain.batch_tokens=512", "pretrain.micro_batch=8", f"budget.match={match}"
    drills = f"corpus.drills.share={share}", f"arms=[{','.join(names)}]", "seeds=[1,2,3]"
    plan = planned(tmp_path / "run", "corpus.tokens=budget", *drills, *budget)
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    text = read_json(plan.folder / "text.json")
    assert text["tokens"]["train"] >= (1 - share) * steps * 512
    assert text["tasks"] < FILES  # it is not the whole source
    assert set(expose(plan)["served"]) == set(names)


# what is part of the corpus


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("corpus.allow_short=true", True),
        ("executor=ray", True),
        ("ray.address=host:6379", True),
        ("workers=2", True),
        ("disk_reserve_gb=3", True),
        ("corpus.task_bytes=50000", False),
        ("corpus.task_bytes=null", False),
        ("corpus.tokens=30000", False),
        ("corpus.tokens=budget", False),
        ("corpus.on_bad=skip", False),
        ("corpus.max_document_bytes=1000", False),
    ],
)
def test_who_does_the_work_is_no_part_of_the_corpus_and_how_it_is_cut_is(planned, whole, override, same):
    assert (planned(whole.trial.folder, override).text_fingerprint == whole.text_fingerprint) == same
