"""The shared record of a search: an Optuna study in a storage, in which each trial stands for one slot of the plan.

The n-th fresh trial is slot n. A slot whose worker died, or whose trial failed, is given out again as a retry that
carries its slot. Workers on any number of machines agree on this from the record alone: trial numbers are given once,
by the storage. Where two workers retry one slot at the same moment the trial of lower number counts.

A worker leaves its mark on each trial it holds and renews it from a thread; others tell from it whether it is dead
(:mod:`dse.explore.search.owner`).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dse.errors import StudyError
from dse.explore.search.outcome import Outcome
from dse.explore.search.owner import Mark, Watch
from dse.explore.search.space import Point, Space, Variable
from dse.explore.search.storage import storage_errors
from dse.explore.search.streams import quiet

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

OWNER, RETRY, RESULT, PROBLEM = "dse:owner", "dse:slot", "dse:result", "dse:problem"


@dataclass(frozen=True)
class Snapshot:
    """The record at one moment.

    ``done`` maps slots to point and outcome; ``live`` maps slots to their unfinished trials, lowest number first;
    ``issued`` is the number of slots given out so far.
    """

    done: Mapping[int, tuple[Point, Outcome]]
    live: Mapping[int, Sequence[FrozenTrial]]
    issued: int

    def lost(self, slots: range) -> list[int]:
        """The slots given out that nobody holds and nobody has finished."""
        return [s for s in slots if s < self.issued and s not in self.done and s not in self.live]


class Record:
    """One worker's view of the shared record. Use as a context: leaving it gives back the trials held.

    Args:
        storage: an open Optuna storage; ``where`` is its address, for messages.
        name: of the study.
        space, directions: of the search.
        problem: what defines the search; a study of another problem is refused.
        grace: seconds without a sign of life after which a worker on another machine counts as dead.

    Raises:
        StudyError: the study there is of another problem, or the storage fails.
    """

    def __init__(
        self, storage: BaseStorage, where: str, name: str, space: Space, directions: Sequence[str],
        problem: Mapping[str, Any], grace: float,
    ) -> None:  # fmt: skip
        self.where = where
        self.grace = grace
        self._space = space
        self._sampler = _planned_sampler()
        with quiet(), storage_errors(where):
            self._study = _open_study(storage, name, directions, self._sampler)
            self._storage = storage
            stored = self._study.user_attrs.get(PROBLEM)
            if stored is None:
                self._study.set_user_attr(PROBLEM, json.dumps(problem, sort_keys=True))
                stored = self._study.user_attrs[PROBLEM]
        refuse_other_problem(where, json.loads(stored), problem)
        self._done: dict[int, tuple[Point, Outcome]] = {}
        self._settled = self._retries = 0
        self._held: dict[int, Trial] = {}
        self._mark = Mark()
        self._watch = Watch(self._mark, grace)
        self._stop = threading.Event()

    def __enter__(self) -> Record:
        self._mark.start()
        self._thread = threading.Thread(target=self._beat, name="search heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # the storage may be what failed; the next worker finds them lost
            for trial in self._held.values():
                self._fail(trial)
        self._mark.stop()

    def read(self) -> Snapshot:
        """The record now.

        Raises:
            StudyError: the storage fails.
        """
        with storage_errors(self.where):
            trials = self._study.get_trials(deepcopy=False)
        # Finished trials never change: those before the first unfinished one are read once.
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._retries = self._take(trials[self._settled], self._retries, {})
            self._settled += 1
        live: dict[int, list[FrozenTrial]] = {}
        retries = self._retries
        for trial in trials[self._settled :]:
            retries = self._take(trial, retries, live)
        return Snapshot(self._done, live, len(trials) - retries)

    def _take(self, trial: FrozenTrial, retries: int, live: dict[int, list[FrozenTrial]]) -> int:
        retry = trial.user_attrs.get(RETRY)
        slot = trial.number - retries if retry is None else retry
        if not trial.state.is_finished():
            live.setdefault(slot, []).append(trial)
        elif trial.state.name != "FAIL" and RESULT in trial.user_attrs and slot not in self._done:
            self._done[slot] = (dict(trial.params), Outcome.decode(trial.user_attrs[RESULT]))
        return retries + (retry is not None)

    def claim(self, snapshot: Snapshot, slots: range, limit: int) -> tuple[int | None, Snapshot]:
        """Take one slot of ``slots`` that nobody holds, or the next fresh one if that is among them.

        Returns:
            The slot, and the record after. The slot is None when there was none to take or another worker was faster;
            it can be beyond ``slots`` when others took the rest meanwhile, and is then held until its turn.

        Raises:
            StudyError: the storage fails.
        """
        from optuna.trial import Trial, TrialState, create_trial

        lost = snapshot.lost(slots)
        if not lost and not slots.start <= snapshot.issued < slots.stop:
            return None, snapshot
        # Made as running and with its mark in one step: there is no moment at which a trial has no owner.
        attributes = {OWNER: self._mark.at(0), **({RETRY: lost[0]} if lost else {})}
        with storage_errors(self.where):
            self._study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
            snapshot = self.read()
            slot, trial = self._new(snapshot)
            first = snapshot.live[slot][0].number == trial.number
            if not first or slot in snapshot.done or slot >= limit:
                self._fail(trial)
                return None, snapshot
            self._held[slot] = Trial(self._study, trial._trial_id)
        return slot, snapshot

    def _new(self, snapshot: Snapshot) -> tuple[int, FrozenTrial]:
        known = {trial.number for trial in self._held.values()}
        for slot, trials in snapshot.live.items():
            for trial in trials:
                if trial.number not in known and self._mark.made(trial.user_attrs.get(OWNER)):
                    return slot, trial
        raise StudyError(f"{self.where} does not show a trial just added to it")

    def held(self, snapshot: Snapshot, slots: range) -> list[int]:
        """The slots among ``slots`` that this worker holds and nobody has finished."""
        return [slot for slot in sorted(self._held) if slot in slots and slot not in snapshot.done]

    def finish(self, slot: int, point: Point, outcome: Outcome) -> None:
        """Tell the result of a slot held. One taken over by another worker meanwhile is left to that one.

        Raises:
            StudyError: the storage fails.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        text = outcome.encode()
        trial = self._held.pop(slot)
        with storage_errors(self.where), contextlib.suppress(UpdateFinishedTrialError):
            self._sampler.point = point
            for variable in self._space.variables:
                _suggest(trial, variable)
            for name, margin in sorted(outcome.constraints.items()):
                trial.set_constraint(name, margin if margin == margin else float("inf"))
            trial.set_user_attr(RESULT, text)
            # Undefined objectives cannot be told as complete; such a trial ends early and shows no values.
            if outcome.defined and outcome.values is not None:
                self._study.tell(trial, list(outcome.values), skip_if_finished=True)
            else:
                self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def reclaim(self, snapshot: Snapshot, slots: range) -> bool:
        """Fail the trials of dead workers on these slots, so that they are given out again. True if any."""
        held = [t for slot in slots for t in snapshot.live.get(slot, ()) if t.state.name == "RUNNING"]
        dead = [trial for trial in held if self._watch.dead(trial.number, trial.user_attrs.get(OWNER))]
        for trial in dead:
            with storage_errors(self.where):
                self._fail(trial)
        return bool(dead)

    def _fail(self, trial: Trial | FrozenTrial) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with contextlib.suppress(UpdateFinishedTrialError):  # its worker told the result at the last moment
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _beat(self) -> None:
        beats = 0
        while not self._stop.wait(self.grace / 4):
            beats += 1
            for trial in list(self._held.values()):
                with contextlib.suppress(Exception):  # finished meanwhile, or the storage is away: the next beat tells
                    trial.set_user_attr(OWNER, self._mark.at(beats))
        with contextlib.suppress(Exception):
            self._storage.remove_session()


def _open_study(storage: BaseStorage, name: str, directions: Sequence[str], sampler: Any) -> Any:
    import optuna

    # Loaded or created: two processes that create it at one moment meet here again, and one of them loads.
    for attempt in range(20):
        try:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=list(directions), sampler=sampler, load_if_exists=True
            )
        except (optuna.exceptions.DuplicatedStudyError, optuna.exceptions.StorageInternalError):
            if attempt == 19:
                raise
            time.sleep(0.05)
        else:
            return study
    raise StudyError(f"the study {name} cannot be opened")


def refuse_other_problem(where: str, stored: Mapping[str, Any], problem: Mapping[str, Any]) -> None:
    """Refuse to go on with a search that was started as another one.

    Raises:
        StudyError: names each difference.
    """
    asked = json.loads(json.dumps(problem))
    differences = [
        f"{key} was {json.dumps(stored.get(key))[:120]}, now {json.dumps(asked.get(key))[:120]}"
        for key in sorted({*stored, *asked})
        if stored.get(key) != asked.get(key)
    ]
    if differences:
        raise StudyError(f"{where} holds another search: {'; '.join(differences)}. Use another folder or study name")


def _suggest(trial: Trial, variable: Variable) -> None:
    """Write the planned value into the record as people read it: the value itself, not its index."""
    if variable.values:
        trial.suggest_categorical(variable.name, variable.values)
    else:
        trial.suggest_float(variable.name, variable.low, variable.high, log=variable.log)


def _planned_sampler() -> Any:
    from optuna.samplers import BaseSampler

    class PlannedSampler(BaseSampler):
        """Suggests the point that the plan has for the trial."""

        point: Point

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self.point[param_name]

    return PlannedSampler()
