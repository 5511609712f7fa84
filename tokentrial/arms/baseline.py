"""The control: every text stays as it is."""

from tokentrial.arms.arm import Arm


class Baseline(Arm):
    summary = "text stays as it is"
    trigger_bytes = b""


ARM = Baseline()
