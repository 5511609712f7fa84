"""Verification finds what differs from the source: by sampled documents, and by every file's checksum."""

import json
import shutil

import numpy as np
import pytest

from tokentrial.corpus.prepare import CorpusPlan, prepare_drills, prepare_patches, prepare_text
from tokentrial.corpus.shards import shard_paths
from tokentrial.corpus.verify import verify
from tokentrial.errors import TrialError
from tokentrial.store.files import file_hash, read_json, write_json
from tokentrial.store.folders import MANIFEST

ARMS = "arms=[baseline,mul_tokens,mul_append]"
EVERY = 10**6  # documents: all there are


@pytest.fixture
def copy(plan, tiny, tmp_path):
    """The plan of a copy of the tiny corpus, to be damaged."""
    shutil.copytree(plan.trial.folder, tmp_path / "run")
    return CorpusPlan(tiny(tmp_path / "run", ARMS, "seeds=[1,2,3]"))


def flip(path, document):
    """Change one id of a document of a shard."""
    ids = np.load(path)
    starts = np.flatnonzero(ids == ids[0])
    place = starts[document] + 3
    assert place < len(ids)
    assert ids[place] != ids[0]
    before = path.stat().st_size
    ids[place] ^= 1
    np.save(path, ids)
    assert path.stat().st_size == before


def flip_patch(path, document):
    """Change one id of a document of a patch."""
    with np.load(path) as patch:
        arrays = dict(patch)
    before = path.stat().st_size
    arrays["ids"][arrays["starts"][document]] ^= 1
    np.savez(path, **arrays)
    assert path.stat().st_size == before
    return int(arrays["documents"][document])


def problems(plan, full=False, documents=EVERY, seed=0):
    """What verification finds, line by line."""
    with pytest.raises(TrialError, match="does not verify") as raised:
        verify(plan, full, documents, seed)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


def source_documents(plan):
    return sum(read_json(plan.folder / "text.json")["documents"].values())


@pytest.mark.parametrize("full", [False, True])
def test_a_good_corpus_verifies(copy, full):
    assert verify(copy, full, EVERY, 0) == {
        "documents": source_documents(copy),
        "tasks": 1,
        "arms": ["baseline", "mul_tokens", "mul_append"],
        "checksums": full,
    }


@pytest.mark.parametrize("documents", [1, 30])
def test_as_many_documents_as_asked_for_are_compared(copy, documents):
    assert verify(copy, False, documents, 0)["documents"] == documents


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_flipped_id_is_found_by_its_document(copy, split):
    path = shard_paths(copy.folder, "fineweb", split)[1]
    flip(path, 4)
    found = problems(copy)
    assert {line.split(": ")[0] for line in found} == {f"{path}, document 4"}
    assert f"{path}, document 4: baseline serves other ids than the source gives" in found


def test_a_flipped_id_is_found_by_its_checksum(copy):
    path = shard_paths(copy.folder, "fineweb", "train")[1]
    flip(path, 4)
    assert f"{path}: its checksum differs" in problems(copy, full=True, documents=1)
    assert not any("checksum" in line for line in problems(copy))


def test_a_sample_finds_a_damage_as_often_as_it_holds_the_document(copy):
    """Hypergeometric: 50 samples of a tenth find the damaged document 5 times on average, sd 2.1."""
    flip(shard_paths(copy.folder, "fineweb", "train")[0], 2)
    found = 0
    for seed in range(50):
        try:
            verify(copy, False, source_documents(copy) // 10, seed)
        except TrialError:
            found += 1
    assert 0 < found < 15


@pytest.mark.parametrize("arm", ["mul_tokens", "mul_append"])
def test_a_flipped_id_of_a_patch_is_found_in_its_arm(copy, arm):
    patch = min(copy.patch_folder(arm).glob("fineweb_train_*.npz"))
    document = flip_patch(patch, 0)
    shard = copy.folder / f"{patch.stem}.npy"
    assert problems(copy) == [f"{shard}, document {document}: {arm} serves other ids than the source gives"]
    assert f"{patch}: its checksum differs" in problems(copy, full=True)


@pytest.mark.parametrize("kind", ["drills", "patches of drills", "text.json"])
def test_what_is_not_made_from_the_source_is_found_by_its_checksum(copy, kind):
    if kind == "drills":
        path = shard_paths(copy.folder / "drills", "drills1", "train")[0]
        flip(path, 1)
    elif kind == "text.json":
        path = copy.folder / "text.json"
        path.write_bytes(path.read_bytes().replace(b'"documents_read": 80', b'"documents_read": 81'))
    else:
        path = min(copy.patch_folder("mul_tokens").glob("drills1_train_*.npz"))
        flip_patch(path, 3)
    assert problems(copy, full=True) == [f"{path}: its checksum differs"]


@pytest.fixture
def even(tiny, tmp_path):
    """A corpus whose train shards are all of one size: a byte is a token, and all documents are as long."""
    path = tmp_path / "even.jsonl"
    texts = [f"document {i:03d} says 3*4=12, not {i:03d}. ".ljust(400, "_") for i in range(90)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = "tokenizer.merges=0", "corpus.piece_characters=null", "corpus.drills.share=0", "corpus.task_bytes=6000"
    plan = CorpusPlan(tiny(tmp_path / "run", *settings, f"corpus.source=jsonl:{path}", "corpus.shard_tokens=2000"))
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    return plan


def swap(first, second):
    assert first.stat().st_size == second.stat().st_size
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def test_a_swapped_pair_of_shards_is_found(even):
    verify(even, True, EVERY, 0)
    first, _, second, *_ = shard_paths(even.folder, "fineweb", "train")
    swap(first, second)
    found = problems(even)
    assert {line.split(", document")[0] for line in found} == {str(first), str(second)}
    assert {f"{path}: its checksum differs" for path in (first, second)} <= set(problems(even, full=True))


def test_a_corpus_that_was_signed_anew_after_it_was_damaged_is_found_by_its_documents(even):
    """Checksums alone say that files are as they were written, not that they were written well."""
    first, _, second, *_ = shard_paths(even.folder, "fineweb", "train")
    swap(first, second)
    manifest = read_json(even.folder / MANIFEST)
    for path in (first, second):
        manifest["files"][path.name]["sha256"] = file_hash(path)
    write_json(even.folder / MANIFEST, manifest)
    found = problems(even, full=True)
    assert {line.split(", document")[0] for line in found} == {str(first), str(second)}


def test_shards_that_hold_another_number_of_documents_than_the_source_are_found(even):
    path = shard_paths(even.folder, "fineweb", "val")[-1]
    ids = np.load(path)
    ids[np.flatnonzero(ids == ids[0])[-1]] += 1  # the last document begins no more: it joins the one before
    np.save(path, ids)
    assert any(str(path) in line and "the source gives" in line for line in problems(even))


def test_several_tasks_are_looked_into(tiny, tmp_path, source):
    plan = CorpusPlan(tiny(tmp_path / "run", "corpus.task_bytes=1", f"corpus.source=jsonl:{source}"))
    assert plan.text  # one file is one task, however small tasks are to be
    folder = tmp_path / "files"
    folder.mkdir()
    lines = source.read_text().splitlines(keepends=True)
    for number in range(12):
        (folder / f"{number:02d}.jsonl").write_text("".join(lines[number * 6 : number * 6 + 6]))
    plan = CorpusPlan(tiny(tmp_path / "run", "corpus.task_bytes=1", f"corpus.source=jsonl:{folder}"))
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    assert verify(plan, True, EVERY, 0)["tasks"] == 8
    shards = read_json(plan.folder / "text.json")["shards_of_task"]
    path = shard_paths(plan.folder, "fineweb", "train")[sum(each["train"] for each in shards[:7])]  # of the eighth
    flip(path, 0)
    told = []
    for seed in range(10):
        try:
            verify(plan, False, EVERY, seed)
        except TrialError as error:
            told.append(str(error))
    assert 2 <= len(told) <= 9  # eight of twelve tasks are drawn
    assert all(f"{path}, document 0: baseline" in message for message in told)


def test_a_source_that_has_changed_since_is_not_compared_with_the_corpus(copy, tiny, tmp_path, source):
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(source.read_bytes().replace(b"the", b"The", 1))
    plan = CorpusPlan(tiny(copy.trial.folder, ARMS, "seeds=[1,2,3]", f"corpus.source=jsonl:{changed}"))
    with pytest.raises(TrialError, match=r"run/corpus: not ready; run `tokentrial corpus`"):
        verify(plan, False, 10, 0)


# the command line


@pytest.fixture
def command(copy, tokentrial):
    """`command(*words)`: (exit code, stdout, stderr) of `tokentrial corpus` on the copy's own trial.yaml."""
    folder = copy.trial.folder
    return lambda *words: tokentrial("corpus", folder / "trial.yaml", f"output={folder}", *words)


@pytest.mark.parametrize(("words", "checked"), [(["--verify", "--full"], "every checksum, "), (["--verify"], "")])
def test_the_command_line_says_what_was_verified(command, words, checked):
    assert command(*words) == (0, f"verified: {checked}100 documents of 1 task in 3 arms\n", "")


def test_the_command_line_names_what_differs_and_ends_with_1(command, copy):
    path = shard_paths(copy.folder, "fineweb", "val")[0]
    flip(path, 0)
    code, out, err = command("--verify", "--full")
    assert (code, out) == (1, "")
    assert err.startswith("tokentrial: ")
    assert f"{path}: its checksum differs" in err
    assert "Traceback" not in err


def test_verification_of_a_corpus_that_is_not_there_ends_with_1(command, copy):
    shutil.rmtree(copy.folder)
    code, _, err = command("--verify")
    assert code == 1
    assert "not ready; run `tokentrial corpus` with the same trial first" in err
