"""Memory that a trial's stages take at their peak: of a GPU, and of the machine.

Weights, gradients and AdamW's two moments are 16 bytes a parameter. Activations are 34 bytes a token, width and layer
in 16 bit (Korthikanti et al. 2022, eq. 1, without the attention matrix, which is never whole), twice that in 32.
"""

from tokentrial.disk import vocabulary_size
from tokentrial.plan.work import lengths
from tokentrial.trial import Trial

_STATE = 16
_ACTIVATIONS = 34
_LOGITS = 8  # bytes of a logit and its gradient, fp32
_CHUNK = 512  # positions whose logits are there at once in pretraining
_CUDA = 1e9  # of CUDA and its libraries on the GPU; assumed
_PROCESS = 1e9  # of a process that has imported torch and transformers; assumed
_DRIVER = 3e9  # of one that holds CUDA too; assumed


def gpu_gb(trial: Trial, number: int) -> float:
    """GB of each of so many GPUs, in the stage that takes most."""
    return (_CUDA + _most(trial, number, 1)) / 1e9


def host_gb(trial: Trial, on_gpu: bool, workers: int) -> float:
    """GB of the machine while cells are at work, so many at a time."""
    weights = 4 * trial.pretrain.parameters(vocabulary_size(trial))
    if on_gpu:
        return (_DRIVER + 3 * weights) * workers / 1e9  # a model is read, moved and written
    return (_PROCESS + _most(trial, 1, 2)) * workers / 1e9


def _most(trial: Trial, number: int, width: int) -> float:
    """Bytes of the largest stage, activations in 16 bit or, `width` 2, in 32."""
    shape, vocabulary = trial.pretrain, vocabulary_size(trial)
    parameters = shape.parameters(vocabulary)

    def bytes_of(rows: int, tokens: float, logits: float) -> float:
        activations = _ACTIVATIONS * width * shape.n_embd * shape.n_layer * rows * tokens
        return _STATE * parameters + activations + _LOGITS * vocabulary * logits

    rows = min(shape.micro_batch, shape.batch_tokens // shape.context // number)
    found = [bytes_of(rows, shape.context, min(_CHUNK, rows * shape.context))]
    if trial.sft:
        tokens = min(trial.sft.max_length, shape.context)
        found.append(bytes_of(trial.sft.batch, tokens, trial.sft.batch * tokens))
    if trial.grpo:
        rollouts, new = trial.grpo.batch * trial.grpo.generations, trial.grpo.new_tokens
        whole = lengths(trial, trial.grpo.task, "train").prompt + new
        reference = 4 * parameters if trial.grpo.kl else 0
        found.append(bytes_of(rollouts, whole, rollouts * new) + reference)
    return max(found)
