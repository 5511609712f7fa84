"""Models to and from the Hugging Face Hub: `push` a cell's model with a card that says what was found, `pull` one.

The token is the Hub's own: HF_TOKEN, or `hf auth login`. Only weights in safetensors, JSON and text go either way.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tokentrial.cell import Cell, model_of
from tokentrial.corpus.sources import hub_client
from tokentrial.errors import SettingsError, TrialError
from tokentrial.report.comparison import REPORT
from tokentrial.report.tables import one_line, sentence
from tokentrial.run import open_run
from tokentrial.store import MANIFEST, read_json
from tokentrial.store import verify as damaged
from tokentrial.trial import Trial

if TYPE_CHECKING:
    from huggingface_hub import HfApi

STAGES = ("pretrain", "sft", "grpo")
CARD = "README.md"
_SEED = re.compile(r"seed([0-9]+)")
# a model's own files; nothing that would have to be unpickled, and no folder
_FILES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(?:safetensors|json|txt|md|yaml|jinja)")
_RESULTS = re.compile(r".*_results\.json|manifest\.json")
_LOCAL = re.compile(r"(jsonl|parquet|path):(?:.*[/\\])?([^/\\]+)[/\\]?")


def push(cell_folder: Path, name: str, stage: str = "pretrain", public: bool = False) -> str:
    """Upload the model of OUT/ARM/seedK after a stage as one commit; returns its address.

    The repository is made if it is not there, private unless `public`: what was public once stays so.
    """
    trial, cell = _cell(cell_folder)
    if stage not in STAGES or getattr(trial, stage) is None:
        there = [each for each in STAGES if getattr(trial, each) is not None]
        raise SettingsError(f"--stage {stage}: the trial {trial.name} has {', '.join(there)}")
    folder = cell.folder(trial, model_of(trial, f"eval_{stage}"))
    if not (folder / MANIFEST).is_file():
        raise TrialError(f"{folder}: no model there; run `tokentrial run` with the same trial first")
    if broken := damaged(folder):
        raise TrialError(f"{folder / broken[0]}: its bytes differ from its manifest; run the trial again")
    files = {path.name: path for path in sorted(folder.iterdir()) if _is_model(path.name)}
    card = model_card(trial, cell, stage, _described(trial, cell))
    with _answered(name, "push") as api:
        from huggingface_hub import CommitOperationAdd

        repository = api.create_repo(name, private=not public, exist_ok=True).repo_id
        added = [CommitOperationAdd(file, path) for file, path in files.items()]
        added.append(CommitOperationAdd(CARD, card.encode()))
        message = f"{trial.name}: {cell.name} after {stage}"
        api.create_commit(repository, added, commit_message=message)
        return f"{api.endpoint}/{repository}"


def pull(name: str, folder: Path) -> list[str]:
    """Download a model into a new folder, whole or not at all; returns the names of its files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: exists and is not empty; give a new folder")
    partial = folder.resolve().with_name(f"{folder.resolve().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with _answered(name, "pull") as api:
        found = api.model_info(name)
        files = sorted(each.rfilename for each in found.siblings or () if _FILES.fullmatch(each.rfilename))
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            raise TrialError(f"{name}: no model in safetensors there; found {one_line(', '.join(files)) or 'no file'}")
        for file in files:
            api.hf_hub_download(name, file, revision=found.sha, local_dir=partial)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's own notes
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return files


def model_card(trial: Trial, cell: Cell, stage: str, described: str) -> str:
    """The card: what the model is, the trial's verdict, and its settings without this machine's paths."""
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tokentrial"]}
    settings = _without_paths(trial.model_dump(mode="json", exclude={"output", "workers", "disk_reserve_gb"}))
    path = trial.folder / REPORT
    said = f"**{sentence(read_json(path))}**" if path.exists() else "No verdict: the trial was not finished."
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).rstrip(),
            "---",
            described,
            "",
            f"These are the weights after {stage}. Load them with `AutoModelForCausalLM` and `AutoTokenizer`.",
            "",
            "## The trial's verdict",
            "",
            said,
            "",
            f"It is a verdict on the arms over {len(trial.seeds)} seeds, not on this model, which is one seed of them.",
            "",
            "## The trial's settings",
            "",
            "```yaml",
            yaml.safe_dump(settings, sort_keys=False, width=100).rstrip(),
            "```",
            "",
        ]
    )


def _described(trial: Trial, cell: Cell) -> str:
    """The text of the card that the export wrote, without its head."""
    path = cell.folder(trial, "export") / CARD
    if not path.is_file():
        raise TrialError(f"{path}: not found; export this cell again with `tokentrial export`")
    return path.read_text(encoding="utf-8").split("\n---\n", 1)[-1].strip()


def _cell(folder: Path) -> tuple[Trial, Cell]:
    """The trial and the cell that OUT/ARM/seedK stands for."""
    whole = folder.resolve()
    seed = _SEED.fullmatch(whole.name)
    if seed is None or not (whole.parents[1] / "trial.yaml").is_file():
        raise SettingsError(f"{folder}: expected a cell of a run, OUT/ARM/seedK, such as outputs/pilot/baseline/seed1")
    trial = open_run(whole.parents[1])
    cell = Cell(whole.parent.name, int(seed[1]))
    if cell.arm not in trial.arms or cell.seed not in trial.seeds:
        raise SettingsError(f"{folder}: arms of its trial are {', '.join(trial.arms)}, seeds are {trial.seeds}")
    return trial, cell


def _is_model(name: str) -> bool:
    return bool(_FILES.fullmatch(name)) and not _RESULTS.fullmatch(name) and name != CARD


def _without_paths(value: Any) -> Any:
    """Settings to be published: of a local file only its name."""
    if isinstance(value, dict):
        return {key: None if key == "path" else _without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    local = _LOCAL.fullmatch(value) if isinstance(value, str) else None
    return f"{local[1]}:{local[2]}" if local else value


@contextmanager
def _answered(name: str, verb: str) -> "Iterator[HfApi]":
    """Yield the Hub's client with a token; what the Hub refuses or fails at within the block is a TrialError."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise SettingsError(f"{name!r}: no name on the Hub; expected OWNER/MODEL, such as me/pilot-seed1") from None
    api: HfApi = hub_client()
    if verb == "push" and get_token() is None:
        raise TrialError(f"{name}: no token for the Hub; set HF_TOKEN, or log in with `hf auth login`")
    try:
        yield api
    except (KeyError, TypeError, ValueError):
        raise TrialError(f"{name}: not {verb}ed: what answers is not the Hub; check the network's proxy") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        # a download that fails says so as a file that is not found, with the Hub's answer as its cause
        answered = isinstance(error, HfHubHTTPError)
        cause = error if answered or not isinstance(error.__cause__, HTTPError) else error.__cause__
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # of this machine's disk
        raise TrialError(one_line(f"{name}: not {verb}ed: {_told(status, cause)}")) from None


_ADVICE: dict[int | None, str] = {
    401: "the Hub refused the token (401); set HF_TOKEN to a token that may write, or check the name",
    403: "the Hub refuses this token here (403); give it the right to write, or choose a name of your own",
    404: "the Hub knows no such model (404), or it is private; check the name and HF_TOKEN",
    429: "the Hub asks to come back later (429); run the same command again in some minutes",
}


def _told(status: int | None, error: BaseException) -> str:
    if status in _ADVICE:
        return _ADVICE[status]
    if status is None:
        return f"the Hub cannot be reached ({type(error).__name__}: {error}); run the same command again"
    return f"the Hub answered {status}; run the same command again later"
