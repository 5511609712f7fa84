"""The GPT-2 that pretraining goes on from, `pretrain.from_checkpoint: FOLDER` or `OWNER/NAME[@REVISION]` on the Hub.

    OUT/start/{config.json, tokenizer.json or merges.txt, model*.safetensors}

A folder's files are linked there, the Hub's are downloaded; the hash of what they hold enters the fingerprint. How the
weights become the model's stands in `export.py`, `load_initial_weights`.
"""

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokentrial.errors import SettingsError
from tokentrial.store.files import file_hash, fingerprint, link, read_json, write_json
from tokentrial.store.folders import MANIFEST, is_done, read_manifest, step
from tokentrial.store.network import hub_api
from tokentrial.tokenizer.vocabulary import Vocabulary, gpt2_merges
from tokentrial.trial.pretraining import SHAPE
from tokentrial.trial.trial import Trial

PINNED = "start.json"  # which revision of a checkpoint on the Hub the run has begun with
_VERSION = 1
_SETTING = "pretrain.from_checkpoint"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")
_METADATA = ("config.json", "tokenizer.json", "merges.txt")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# what GPT-2 is beside its size; one value of several says the same
_ARCHITECTURE: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}


def start_folder(trial: Trial) -> Path:
    return trial.folder / "start"


def start_fingerprint(trial: Trial) -> str:
    """How weights are drawn, or the hash of the checkpoint's files: what of it the fingerprint holds."""
    path = start_folder(trial) / MANIFEST
    if trial.pretrain.from_checkpoint is None:
        return trial.pretrain.init
    if not path.exists():
        return "not there yet"
    files = read_manifest(path.parent)["files"]
    return fingerprint("checkpoint", _VERSION, files={name: entry["sha256"] for name, entry in files.items()})


def start_content(trial: Trial) -> str | None:
    """What a declaration says of the checkpoint: the hash of a folder's files, known before they are brought into the
    run folder; the name of one on the Hub."""
    init = trial.pretrain.from_checkpoint
    if init is None:
        return None
    source, path = Path(init), start_folder(trial) / MANIFEST
    if path.exists() and "revision" not in read_manifest(path.parent):
        return start_fingerprint(trial)
    if not source.is_dir():
        return init
    names = _checkpoint_files([file.name for file in source.iterdir()], init)
    return fingerprint("checkpoint", _VERSION, files={name: file_hash(source / name) for name in names})


def prepare_start(trial: Trial, vocabulary: Vocabulary) -> None:
    """Bring the checkpoint into the run folder, where the trial has one, and hold it against the trial's settings.

    A folder that has changed is brought anew; what was downloaded stays, and where it is lost the same revision is
    downloaded again. Raises SettingsError where it is no GPT-2 of the trial's size and merges, or not in safetensors.
    """
    init, to = trial.pretrain.from_checkpoint, start_folder(trial)
    if init is None:
        return
    source = Path(init)
    manifest = read_manifest(to) if (to / MANIFEST).exists() else {}
    if source.is_dir():
        names = _checkpoint_files([path.name for path in source.iterdir()], init)
        stamps = [[name, (source / name).stat().st_size, (source / name).stat().st_mtime_ns] for name in names]
        current = fingerprint("start", _VERSION, files=stamps)
        if not is_done(to, current):
            _check_compatible(source, trial, vocabulary)
            with step(to, current, init=init) as partial:
                for name in names:
                    link(source / name, partial / name)
    elif manifest.get("init") != init or not is_done(to, manifest["fingerprint"]):
        if not _HUB_NAME.fullmatch(init):
            raise SettingsError(f"{_SETTING}: {init}: neither a folder nor an OWNER/NAME on the Hub")
        _download(init, to, trial, vocabulary)
    _check_compatible(to, trial, vocabulary)
    revision = read_manifest(to).get("revision")
    if revision and _pinned(trial) != revision:
        write_json(trial.folder / PINNED, {"init": init, "revision": revision})


def _download(init: str, to: Path, trial: Trial, vocabulary: Vocabulary) -> None:
    """From the Hub, the small files first: they say whether the weights are worth it."""
    name, _, revision = init.partition("@")
    with hub_api(name, "pull") as api:
        info = api.model_info(name, revision=_pinned(trial) or revision or None)
        names = _checkpoint_files([file.rfilename for file in info.siblings or ()], init)
        # of the commit and not of the branch's name: all files are of one commit, whatever is pushed meanwhile
        current = fingerprint("start", _VERSION, init=init, revision=info.sha)
        with step(to, current, init=init, revision=info.sha) as partial:
            for file in names:
                if file not in _METADATA:
                    _check_compatible(partial, trial, vocabulary)
                api.hf_hub_download(name, file, revision=info.sha, local_dir=partial)
            shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's own notes


def _pinned(trial: Trial) -> str | None:
    """The revision that the run has begun with; None before that, and after `from_checkpoint` has changed."""
    path = trial.folder / PINNED
    pinned = read_json(path, "init", "revision") if path.exists() else {}
    return pinned["revision"] if pinned.get("init") == trial.pretrain.from_checkpoint else None


def _checkpoint_files(names: Collection[str], init: str) -> list[str]:
    """The files that are read. Nothing is unpickled."""
    weights = sorted(filter(_WEIGHTS.fullmatch, names))
    if "config.json" not in names or not weights:
        pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names)
        how = (
            "; a pickle is not loaded: convert it where you trust it, "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
        raise SettingsError(
            f"{_SETTING}: {init} holds {', '.join(sorted(names)[:10]) or 'no file'}; expected config.json and "
            f"model.safetensors of a GPT-2{how if pickled else ''}"
        )
    whole = "model.safetensors"  # where there are shards too, they are the same weights once more
    return [name for name in _METADATA if name in names] + ([whole] if whole in weights else weights)


def _check_compatible(folder: Path, trial: Trial, vocabulary: Vocabulary) -> None:
    """Refuse a checkpoint that is another model than the trial's, naming what differs and what to set."""
    config, settings, init = read_json(folder / "config.json"), trial.pretrain, trial.pretrain.from_checkpoint
    if not isinstance(config, dict):
        raise SettingsError(f"{_SETTING}: {init}: config.json holds no settings of a model")
    for key, expected in _ARCHITECTURE.items():
        if (given := config.get(key, expected[0])) not in expected:
            raise SettingsError(f"{_SETTING}: {init} has {key} {given!r}, expected {expected[0]!r} as in GPT-2")
    for key in SHAPE:
        if (given := config.get(key)) != getattr(settings, key):
            raise SettingsError(f"{_SETTING}: {init} has {key} {given}; set pretrain.{key}={given}")
    if config.get("n_inner") not in (None, 4 * settings.n_embd):
        raise SettingsError(f"{_SETTING}: {init} has n_inner {config['n_inner']}, expected {4 * settings.n_embd}")
    positions, eos, size = (config.get(key) for key in ("n_positions", "eos_token_id", "vocab_size"))
    if not isinstance(positions, int) or positions < settings.context:
        raise SettingsError(f"{_SETTING}: {init} has {positions} positions; set pretrain.context={positions}")
    if eos != vocabulary.eos or not isinstance(size, int) or size <= eos:
        raise SettingsError(
            f"{_SETTING}: {init} has {size} ids and its eos at {eos}, where {vocabulary.n_merges} merges put it at "
            f"{vocabulary.eos}; set tokenizer.merges to the number of its merges, 50000 for GPT-2's own vocabulary"
        )
    merges = _merges(folder)
    if merges is not None and merges != list(gpt2_merges(vocabulary.path)[: vocabulary.n_merges]):
        raise SettingsError(
            f"{_SETTING}: the tokenizer of {init} has not GPT-2's first {vocabulary.n_merges} merges: its ids stand "
            "for other text; give a model of GPT-2's vocabulary, or of an export of ours with the same tokenizer.merges"
        )


def _merges(folder: Path) -> list[tuple[str, ...]] | None:
    """The merges of the tokenizer beside a model; None where there is none, as beside a model made by hand."""
    if (folder / "tokenizer.json").exists():
        model = read_json(folder / "tokenizer.json").get("model", {})
        return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", [])]
    if (folder / "merges.txt").exists():
        lines = (folder / "merges.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        return [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return None
