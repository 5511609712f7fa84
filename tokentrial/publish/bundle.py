"""A run's results in one file: trial, report, samples, hashes, the table of results with the card of a data set, and a
table for a paper.

The same run folder gives the same bytes. `tokentrial compare` reads it; weights stay where they are, their hashes in
`hashes.json`.
"""

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson

from tokentrial.compare.bundles import HASHES
from tokentrial.errors import TrialError
from tokentrial.publish.dataset import CARD, dataset_card
from tokentrial.report.comparison import PAGE, REPORT
from tokentrial.report.latex import latex_table
from tokentrial.report.results import RESULTS
from tokentrial.run.run_folder import open_run
from tokentrial.steps.cell import cells
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import read_json, write_bytes
from tokentrial.store.folders import MANIFEST, read_manifest, require_intact
from tokentrial.trial.declaration import DECLARED
from tokentrial.trial.trial import Trial

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold: no file's own time is in the bundle
_REQUIRED = ("trial.yaml", DECLARED, REPORT, PAGE, "report.md", RESULTS)


def write_bundle(out: Path, to: Path | None = None) -> Path:
    """Write the bundle of a run folder with a report; returns its path, `OUT.zip` if none is given."""
    trial = open_run(out)
    for name in _REQUIRED:
        if not (out / name).is_file():
            raise TrialError(f"{out / name}: not found; `tokentrial run` writes it at the end of a whole run")
    report = read_json(out / REPORT)
    evaluated = [stage for stage in stage_names(trial) if stage.startswith("eval_")]
    folders = [cell.folder(trial, stage) for cell in cells(trial) for stage in evaluated]
    evaluations = [folder for folder in folders if (folder / MANIFEST).is_file()]
    _check_report(report, evaluations, out)
    paths = [*(trial.folder / name for name in _REQUIRED), *(trial.folder / "figures").glob("*.*")]
    for folder in evaluations:
        require_intact(folder)
        paths += [folder / name for name in (MANIFEST, *read_manifest(folder)["files"])]
    files = {path.relative_to(trial.folder).as_posix(): path.read_bytes() for path in paths}
    files[CARD] = dataset_card(report)
    files["table.tex"] = latex_table(report).encode()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[HASHES] = orjson.dumps(
        {"bundle": hashes, "run": _step_hashes(trial)}, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2
    )
    path = to or out.resolve().with_name(f"{out.resolve().name}.zip")
    write_bytes(path, _zip(files))
    return path


def _check_report(report: dict[str, Any], evaluations: list[Path], out: Path) -> None:
    """Refuse a report that is of other results than those that the bundle would hold."""
    times = [read_manifest(folder)["provenance"]["time"] for folder in evaluations]
    made_by = report.get("made_by", {"makers": [], "last": None})
    reported = sum(maker["evaluations"] for maker in made_by["makers"])
    if (reported, made_by["last"]) != (len(times), max(times, default=None)):
        raise TrialError(
            f"{out / REPORT}: it is of {reported} evaluations to {made_by['last']}, found {len(times)} to "
            f"{max(times, default=None)}; finish the run, or make the report again with `tokentrial report {out}`"
        )


def _step_hashes(trial: Trial) -> dict[str, Any]:
    """Fingerprint and hashes of every step of the run that has a manifest, weights and corpus among them."""
    steps = {}
    for path in trial.folder.rglob(MANIFEST):
        folder = path.parent.relative_to(trial.folder)
        if not any(part.endswith((".partial", ".checkpoints")) for part in folder.parts):
            manifest = read_manifest(path.parent)
            hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
            steps[str(folder)] = {"fingerprint": manifest["fingerprint"], "sha256": hashes}
    return steps


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.create_system = 3  # Unix everywhere, for the same bytes
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()
