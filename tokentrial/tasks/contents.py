"""What the files hold that SFT, GRPO and evaluation read; a run folder remembers it.

    OUT/inputs.json     source -> name of each of its files -> sha256

So a run can be looked at where such a file is gone, and gone on with as long as nothing has to be made from it.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tokentrial.errors import TrialError
from tokentrial.store.files import file_hash, read_json, write_json
from tokentrial.tasks.training_examples import get_task, stage_sources
from tokentrial.tasks.word_problems import WordProblems
from tokentrial.trial.trial import Trial

INPUTS = "inputs.json"


def source_hashes(trial: Trial, names: Sequence[str]) -> dict[str, str]:
    """For a fingerprint: the hashes of the local files that sources read, of one that is gone as the run folder
    remembers it; the version of generated word problems; nothing of any other source but its name. Raises TrialError
    that names a file that is gone and not remembered."""
    hashes = {}
    for index, name in enumerate(names):
        kind = _place(trial, name).partition(":")[0]
        version = [str(WordProblems.version)] if name == WordProblems.name else []
        hashes[f"{index} {name.partition(':')[0]} {kind}"] = ",".join(version or _contents(trial, name).values())
    return hashes


def remember(trial: Trial) -> None:
    """Write down what the files hold now."""
    names = {*trial.evaluate.tasks, *stage_sources(trial, "sft"), *stage_sources(trial, "grpo")}
    contents = {_place(trial, name): _contents(trial, name) for name in sorted(names) if ":" in _place(trial, name)}
    path = trial.folder / INPUTS
    if (read_json(path) if path.exists() else {}) != contents:
        write_json(path, contents)


def lost(trial: Trial, name: str) -> list[str]:
    """Files of a source that the run folder remembers and that are gone."""
    present = {file.name for file in _files(trial, name)}
    return [file for file in _remembered(trial, name) if file not in present]


def changed(trial: Trial, names: Iterable[str]) -> list[str]:
    """Those of the sources that no longer hold what the run folder remembers."""
    remembered = {name: _remembered(trial, name) for name in names}
    return [name for name, files in remembered.items() if files and files != _contents(trial, name)]


def require(trial: Trial, names: Iterable[str], wanted: str) -> None:
    """Raises TrialError where a file is gone that `wanted` is to be made from."""
    for name in names:
        for file in lost(trial, name):
            raise TrialError(
                f"{_place(trial, name)}: {file} is gone, but {wanted} is to be made from it; put it back, or give "
                "output=OTHER_FOLDER with what is there now"
            )


def _place(trial: Trial, name: str) -> str:
    return trial.tasks.gsm8k if name == "gsm8k" else name


def _remembered(trial: Trial, name: str) -> dict[str, str]:
    path = trial.folder / INPUTS
    return dict(read_json(path).get(_place(trial, name), {})) if path.exists() else {}


def _contents(trial: Trial, name: str) -> dict[str, str]:
    """The sha256 of each file of a source, by name."""
    files = {file.name: _hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in _files(trial, name)}
    hashes = _remembered(trial, name) | files if ":" in _place(trial, name) else {}
    if ":" in _place(trial, name) and not hashes:
        raise TrialError(f"{_place(trial, name)}: not found, and {trial.folder / INPUTS} does not say what it held")
    return dict(sorted(hashes.items()))


def _files(trial: Trial, name: str) -> Sequence[Path]:
    return get_task(name, trial, frozenset()).files


@lru_cache(maxsize=256)  # each cell asks for each of its stages
def _hash(path: Path, size: int, written: int) -> str:
    return file_hash(path)
