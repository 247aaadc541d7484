"""Which environments are being waited for, so that a hung one can be told by name from another thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class Call:
    """One step or reset that has begun and not ended; under way for as long as it is entered."""

    backend: Any
    what: str  # step, reset or close
    action: Any  # the actions [N, ...] that were sent; None but for a step

    def __str__(self) -> str:
        """The game, the environment and its last action, as well as they are known."""
        at = getattr(self.backend, "busy", None)
        name, n, begin = self.backend.env_id, self.backend.num_envs, getattr(self.backend, "offset", 0)
        if at is not None:
            which, action = f"environment {begin + at}", None if self.action is None else self.action[at].tolist()
        else:
            which = f"one of environments {begin} to {begin + n - 1}" if n > 1 else f"environment {begin}"
            action = None if self.action is None else self.action.tolist()
        names = getattr(self.backend, "action_names", ())
        told = f"last action{'' if at is not None or n == 1 else 's'} {action}" if action is not None else f"in its {self.what}"
        return f"{name}: {which}, {told}{' of ' + ' '.join(names) if names and action is not None else ''}"

    def __enter__(self) -> None:
        under_way.append(self)

    def __exit__(self, *exc: object) -> None:
        under_way.remove(self)


under_way: list[Call] = []
