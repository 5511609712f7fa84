"""`tokentrial --help`: the commands in groups, by what a person wants to do."""

from typing import Any

from typer.core import TyperGroup

GROUPS = {
    "Run a trial": ("run", "status", "extend", "collect"),
    "Read what came out": ("verdict", "report", "results", "compare", "inspect", "sample"),
    "Plan and set up": ("plan", "power", "declare", "outcomes", "arms", "schema", "doctor"),
    "Run one stage": ("corpus", "pretrain", "export", "sft", "grpo", "evaluate"),
    "Share": ("bundle", "push", "pull"),
}


class GroupedCommands(TyperGroup):
    """Lists its commands under the headings of `GROUPS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - width - 6  # what is left of a line beside indentation and name
        for title, names in GROUPS.items():
            with formatter.section(title):
                commands = [self.commands[name] for name in names]
                formatter.write_dl([(f"{c.name:{width}}", c.get_short_help_str(limit)) for c in commands])
