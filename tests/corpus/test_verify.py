"""Verification finds what differs from the source: by sampled documents, and by every file's checksum."""

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


@pytest.mark.parametrize(("full", "documents"), [(True, EVERY), (False, 30)])
def test_as_many_documents_as_asked_for_are_compared(plan, full, documents):
    assert verify(plan, full, documents, 0) == {
        "documents": min(documents, source_documents(plan)),
        "tasks": 1,
        "arms": ["baseline", "mul_tokens", "mul_append"],
        "checksums": full,
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_flipped_id_is_found_by_its_document(copy, split):
    path = shard_paths(copy.folder, "text", split)[1]
    flip(path, 4)
    found = problems(copy)
    assert {line.split(": ")[0] for line in found} == {f"{path}, document 4"}
    assert f"{path}, document 4: baseline serves other ids than the source gives" in found


def test_a_flipped_id_is_found_by_its_checksum(copy):
    path = shard_paths(copy.folder, "text", "train")[1]
    flip(path, 4)
    assert f"{path}: its checksum differs" in problems(copy, full=True, documents=1)
    assert not any("checksum" in line for line in problems(copy))


@pytest.mark.parametrize("arm", ["mul_tokens", "mul_append"])
def test_a_flipped_id_of_a_patch_is_found_in_its_arm(copy, arm):
    patch = min(copy.patch_step(arm, "text")[0].glob("text_train_*.npz"))
    document = flip_patch(patch, 0)
    shard = copy.folder / f"{patch.stem}.npy"
    assert problems(copy) == [f"{shard}, document {document}: {arm} serves other ids than the source gives"]
    assert f"{patch}: its checksum differs" in problems(copy, full=True)


def test_what_is_not_made_from_the_source_is_found_by_its_checksum(copy):
    drills = shard_paths(copy.folder, "drills1", "train")[0]
    flip(drills, 1)
    record = copy.folder / "text.json"
    record.write_bytes(record.read_bytes().replace(b'"documents_read": 80', b'"documents_read": 81'))
    patch = min(copy.patch_step("mul_tokens", "drills1")[0].glob("drills1_train_*.npz"))
    flip_patch(patch, 3)
    assert problems(copy, full=True) == [f"{path}: its checksum differs" for path in (record, drills, patch)]


def test_a_corpus_that_was_signed_anew_after_it_was_damaged_is_found_by_its_documents(copy):
    """Checksums alone say that files are as they were written, not that they were written well."""
    path = shard_paths(copy.folder, "text", "train")[0]
    flip(path, 3)
    manifest = read_json(copy.folder / MANIFEST)
    manifest["files"][path.name]["sha256"] = file_hash(path)
    write_json(copy.folder / MANIFEST, manifest)
    found = problems(copy, full=True)
    assert {line.split(": ")[0] for line in found} == {f"{path}, document 3"}


def test_shards_that_hold_another_number_of_documents_than_the_source_are_found(copy):
    path = shard_paths(copy.folder, "text", "val")[-1]
    ids = np.load(path)
    ids[np.flatnonzero(ids == ids[0])[-1]] += 1  # the last document begins no more: it joins the one before
    np.save(path, ids)
    assert any(str(path) in line and "the source gives" in line for line in problems(copy))


def test_eight_tasks_are_looked_into_each_with_its_own_shards(tiny, tmp_path, source):
    folder = tmp_path / "files"
    folder.mkdir()
    lines = source.read_text().splitlines(keepends=True)
    for number in range(12):
        (folder / f"{number:02d}.jsonl").write_text("".join(lines[number * 6 : number * 6 + 6]))
    settings = "arms=[baseline,mul_tokens]", "corpus.task_bytes=1", f"corpus.source=jsonl:{folder}"
    plan = CorpusPlan(tiny(tmp_path / "run", *settings))
    for prepare in (prepare_text, prepare_drills, prepare_patches):
        prepare(plan)
    assert verify(plan, True, EVERY, 0)["tasks"] == 8
    shards = read_json(plan.folder / "text.json")["shards_of_task"]
    path = shard_paths(plan.folder, "text", "train")[sum(counts["train"] for counts in shards[:7])]  # of the eighth
    flip(path, 0)
    messages = []
    for seed in range(6):
        try:
            verify(plan, False, EVERY, seed)
        except TrialError as error:
            messages.append(str(error))
    assert 1 <= len(messages) <= 5  # eight of twelve tasks are drawn
    assert all(f"{path}, document 0: baseline" in message for message in messages)


# the command line


@pytest.fixture
def command(copy, tokentrial):
    """`command(*words)`: (exit code, stdout, stderr) of `tokentrial corpus` on the copy's own trial.yaml."""
    folder = copy.trial.folder
    return lambda *words: tokentrial("corpus", folder / "trial.yaml", f"output={folder}", *words)


@pytest.mark.parametrize(("words", "checked"), [(["--verify", "--full"], "every checksum, "), (["--verify"], "")])
def test_the_command_line_says_what_was_verified(command, words, checked):
    assert command(*words) == (0, f"verified: {checked}100 documents of 1 task in 3 arms\n", "")


def test_the_command_line_names_what_differs_or_is_not_there_and_ends_with_1(command, copy):
    path = shard_paths(copy.folder, "text", "val")[0]
    flip(path, 0)
    code, out, err = command("--verify", "--full")
    assert (code, out) == (1, "")
    assert err.startswith("tokentrial: ")
    assert f"{path}: its checksum differs" in err
    shutil.rmtree(copy.folder)
    code, _, err = command("--verify")
    assert code == 1
    assert "not ready; run `tokentrial corpus` with the same trial first" in err
