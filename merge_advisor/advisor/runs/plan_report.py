"""What plan.json says: what was found, chosen and why, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge_advisor.adapt.values import Alternative
from merge_advisor.json_form import STRICT
from merge_advisor.report.values import SimilarityMap
from merge_advisor.scores import ScoringCost, Verdict
from merge_advisor.spaces import Space
from merge_advisor.types import Base, ChooseBy, Kind, Recipe, Selection

PROMPTED = "prompt"
"""Name of the adaptation whose model has the rows in its prompt."""


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What became of one model of the pool.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> read_run(Path("run")).plan.candidates[0].status in ("member", "candidate")
    True
    """

    __pydantic_config__ = STRICT

    id: str
    status: str
    """"member", "candidate" or "refused"."""
    reason: str
    """Why it was refused; empty otherwise."""
    kind: Kind | None
    fingerprint: str
    similarity: float | None
    """Cosine of its delta with the task's."""
    licence: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task's rows by digest, and what the file was like.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> read_run(Path("run")).plan.tasks[0].name
    'examples'
    """

    __pydantic_config__ = STRICT

    name: str
    digest: str
    shots: tuple[str, ...]
    tuning: tuple[str, ...]
    heldout: tuple[str, ...]
    notes: tuple[str, ...]
    understood: tuple[str, ...] = ()
    """What its files were understood as, a line each; empty in plans made before that was kept."""


@dataclass(frozen=True, slots=True)
class InputsReport:
    """The unlabelled rows that a plan was given, and what the file was like.

    >>> InputsReport("0" * 64, rows=200, notes=()).rows
    200
    """

    __pydantic_config__ = STRICT

    digest: str
    """Sha256 over the digests of the rows, sorted."""
    rows: int
    """How many were trained on."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What was asked for: the fields of `PlanOptions` that change a plan, under the same names.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> read_run(Path("run")).plan.settings.strategy
    'top_k'
    """

    __pydantic_config__ = STRICT

    strategy: str
    k: int
    composition: str
    rank: int | None
    embedding: str
    shots: int
    seed: int
    anchor: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    licence: tuple[str, ...]
    finetune: dict[str, float | int | None]
    choose_by: ChooseBy = "loss"
    """Plans from before there was a choice chose by the loss."""
    adaptation: str = "none"
    """Plans from before there were adaptations had none."""
    fields: str | None = field(default=None, metadata={"json": "if set"})


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """How rows and pool became one model.

    >>> AdaptationReport("auto", "continue", "trained from the chosen merge", numbers=4096).chosen
    'continue'
    """

    __pydantic_config__ = STRICT

    asked: str
    """Spec of the adaptation."""
    chosen: str
    """Name of the one that made the model: what `auto` chose, or the one that was asked for."""
    reason: str
    numbers: int
    """How many numbers were trained."""
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """What the training can be done again by."""
    options: tuple[Alternative, ...] = ()
    """What `auto` compared, the best first."""
    predicted: float | None = None
    """Fall of the loss from the base's, on rows held out of the training they are judged by; None where none was."""
    start: Recipe | None = None
    """The merge that the strategy chose, before anything was trained."""
    shots_scale: float = 1.0
    """Weight of `shots_lora` alone, as it is scored."""
    losses: tuple[float, ...] = ()
    """Loss of each row learned from, held out of the training that it is judged by; empty where none was."""

    @property
    def prompted(self) -> bool:
        """Whether the model has the rows in its prompt, which no recipe can say."""
        return self.chosen == PROMPTED

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return sum(self.losses) / len(self.losses) if self.losses else float("nan")


UNADAPTED = AdaptationReport("none", "none", "the merge as it was chosen", 0)
"""Of a merge that nothing was trained into."""


@dataclass(frozen=True, slots=True)
class Environment:
    """All that may differ between two machines or two runs; the rest of plan.json does not.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> sorted(read_run(Path("run")).plan.environment.seconds)
    ['adapt', 'choose', 'embed the pool', 'finetune on the shots', 'open']
    """

    __pydantic_config__ = STRICT

    created: str
    """UTC, ISO 8601."""
    machine: str
    versions: dict[str, str]
    seconds: dict[str, float]
    store_hits: int
    store_misses: int
    paths: dict[str, str]
    """Where base, pool, store and task files were."""
    scoring: tuple[ScoringCost, ...] = ()
    """What scoring took, a task each; empty until scored, and in plans made before it was kept."""
    peak_bytes: int | None = None
    """Peak memory of the process that planned; None where the system does not tell, and before it was kept."""


@dataclass(frozen=True, slots=True)
class Plan:
    """plan.json.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> plan = read_run(Path("run")).plan
    >>> plan.forwards["embed the pool"], plan.verdict
    (35, None)
    """

    __pydantic_config__ = STRICT

    version: int
    base: Base
    template: str
    template_digest: str
    pool_digest: str
    space: Space
    settings: PlanSettings
    tasks: tuple[TaskReport, ...]
    candidates: tuple[CandidateReport, ...]
    selection: Selection
    recipe_digest: str
    rank_error: float
    """Relative Frobenius error of cutting the merge to `rank`; 0 where nothing was cut."""
    forwards: dict[str, int]
    """Nominal cost in forward passes over one row, by step."""
    notes: tuple[str, ...]
    conflicts: tuple[str, ...]
    """Licences of the members that do not go together."""
    verdict: Verdict | None
    """Over all tasks; None until scored."""
    reason: str
    environment: Environment
    map: SimilarityMap | None = None
    """Where the pool's deltas and the task's lie; None in plans made before it was kept."""
    adaptation: AdaptationReport | None = None
    """How the run's model was made; None in plans from before there were adaptations."""
    inputs: InputsReport | None = None
    """None where none were given."""
    planned_digest: str = ""
    """Digest of the recipe under `plan/`, once the run was tuned."""
    planned_adaptation: AdaptationReport | None = None
    """How the model under `plan/` was made, once the run was tuned."""
    fitting: int | None = None
    """Models that could have been candidates, where that is more than there are: of a plan from a hub folder all that
    fit, opened or not."""
