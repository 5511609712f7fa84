"""Models to and from the Hugging Face Hub: `push` a cell's model with a card that says what was found and, where the
trial is finished, its results as a data set beside it; `pull` a model.

The token is the Hub's own: HF_TOKEN, or `hf auth login`. Only weights in safetensors, JSON and text go either way.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tokentrial.errors import SettingsError, TrialError
from tokentrial.publish.dataset import CARD, dataset_card
from tokentrial.report.comparison import REPORT
from tokentrial.report.formats import one_line
from tokentrial.report.narrative import verdict_sentence
from tokentrial.report.results import RESULTS
from tokentrial.run.run_folder import model_folder, open_cell
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json
from tokentrial.store.folders import partial, place, require_intact
from tokentrial.store.network import hub_api
from tokentrial.store.tuned import arm_trial
from tokentrial.trial.trial import Trial

# of a model; nothing that would have to be unpickled, and no folder
_MODEL_FILES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(?:safetensors|json|txt|md|yaml|jinja)")
_RESULT_FILES = re.compile(r".*_results\.json|manifest\.json|README\.md")
_LOCAL_SOURCE = re.compile(r"^(jsonl|parquet|path):(?:.*[/\\])?([^/\\]+)[/\\]?$")
# of a trial: where it was computed, which is nobody's business and says nothing of the model
_MACHINE = {"output", "workers", "disk_reserve_gb", "disk_limit_gb", "storage", "executor", "ray"}


def push(cell_folder: Path, name: str, stage: str = "pretrain", public: bool = False) -> list[str]:
    """Upload the model of OUT/ARM/seedK after a stage and, where the trial is whole, its results to the data set
    NAME-results, one commit each; returns their addresses.

    A repository is made if it is not there, private unless `public`: what was public once stays so.
    """
    trial, cell = open_cell(cell_folder)
    folder = model_folder(trial, cell, stage)
    require_intact(folder)
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if _MODEL_FILES.fullmatch(name) and not _RESULT_FILES.fullmatch(name)]
    exported_card = cell.folder(trial, "export") / CARD
    if not exported_card.is_file():
        raise TrialError(f"{exported_card}: not found; export this cell again with `tokentrial export`")
    description = exported_card.read_text(encoding="utf-8").split("\n---\n", 1)[-1].strip()  # without its head
    card = model_card(trial, cell, stage, description)
    contents: dict[str, Path | bytes] = {file: folder / file for file in files}
    uploads = [("model", name, contents | {CARD: card.encode()})]
    report, results = trial.folder / REPORT, trial.folder / RESULTS
    if report.is_file() and results.is_file() and not (whole := read_json(report))["missing"]:
        uploads.append(("dataset", f"{name}-results", {CARD: dataset_card(whole), RESULTS: results}))
    addresses = []
    for kind, repository, contents in uploads:
        with hub_api(repository, "push") as api:
            from huggingface_hub import CommitOperationAdd

            address = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
            additions = [CommitOperationAdd(path, content) for path, content in contents.items()]
            message = f"{trial.name}: {cell.name} after {stage}"
            api.create_commit(address.repo_id, additions, commit_message=message, repo_type=kind)
            addresses.append(str(address))
    return addresses


def pull(name: str, folder: Path) -> list[str]:
    """Download a model into a new folder, whole or not at all; returns the names of its files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: exists and is not empty; give a new folder")
    download = partial(folder.resolve())
    shutil.rmtree(download, ignore_errors=True)
    with hub_api(name, "pull") as api:
        info = api.model_info(name)
        files = sorted(file.rfilename for file in info.siblings or () if _MODEL_FILES.fullmatch(file.rfilename))
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            raise TrialError(f"{name}: no model in safetensors there; found {one_line(', '.join(files)) or 'no file'}")
        for file in files:
            api.hf_hub_download(name, file, revision=info.sha, local_dir=download)
    shutil.rmtree(download / ".cache", ignore_errors=True)  # the client's own notes
    if not place(download, folder):
        raise TrialError(f"{folder}: something was written there meanwhile; the model is in {download}")
    return files


def model_card(trial: Trial, cell: Cell, stage: str, description: str) -> str:
    """The card: what the model is, the trial's verdict, and its settings without this machine's paths."""
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tokentrial"]}
    trained = arm_trial(trial, cell.arm)  # with the values that its tuning chose
    settings = _without_paths(trained.model_dump(mode="json", exclude=_MACHINE))
    path = trial.folder / REPORT
    verdict = f"**{verdict_sentence(read_json(path))}**" if path.exists() else "No verdict: the trial was not finished."
    return f"""---
{yaml.safe_dump(head, sort_keys=False).rstrip()}
---
{description}

These are the weights after {stage}. Load them with `AutoModelForCausalLM` and `AutoTokenizer`.

## The trial's verdict

{verdict}

It is a verdict on the arms over {len(trial.seeds)} seeds, not on this model, which was trained with one of them.

## The trial's settings

```yaml
{yaml.safe_dump(settings, sort_keys=False, width=100).rstrip()}
```
"""


def _without_paths(value: Any) -> Any:
    """Settings to be published: of a local file only its name."""
    if isinstance(value, dict):
        return {key: None if key in ("path", "rdzv_endpoint") else _without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    key = "".join(re.findall(r"^[\w.]+=", value))  # `KEY=VALUE` of robustness_reruns
    place = value.removeprefix(key)
    if place.startswith(("/", ".", "~")):
        return f"{key}./{Path(place).name}"
    return key + _LOCAL_SOURCE.sub(r"\1:\2", place)
