"""The engine as a Ray actor: one per device, shared by the trials that Ray packs onto that device.

A host measures how many trials fit its own device. Trials beyond that wait in `join`, so that a smaller GPU
of a mixed cluster is never given more than it holds.
"""

import operator
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.config import TrialConfig
from trainable.errors import LoratuneError, NodeError
from trainable.lora.description import ModelDescription
from trainable.records import DEVICE_SHARE, FUSED_WIDTH, MetricsRecord
from trainable.software import differences, software

if TYPE_CHECKING:
    from trainable.evaluation import Scored

_CHECK_S = 1.0
"""How often a trial that waits for a slot looks for trials whose processes are dead."""


@dataclass(frozen=True)
class TableFacts:
    """One data source: its rows, the tokens that have a loss, the truncated rows, and how it was read."""

    rows: int
    target_tokens: int
    rows_truncated: int
    notes: Sequence[str]


@dataclass(frozen=True)
class Identity:
    """What all engines of a search have in common; with any difference their losses would not compare.

    Attributes:
        data_hash: of the rows.
        tokens_id: of what the tokenizer made of them.
        base_id: what the base model is by its content.
        software: versions by name.
    """

    data_hash: str
    tokens_id: str
    base_id: str
    software: Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """What an engine loaded.

    Attributes:
        slots: how many trials should share the device.
        identity: what any other engine of the search must load too.
        model: the base model.
        tables: the data files, by `train`, `val` and `test`.
        notes: what a user should know before trials are started, a sentence each.
    """

    slots: int
    identity: Identity
    model: ModelDescription
    tables: Mapping[str, TableFacts]
    notes: Sequence[str]


class EngineHost:
    """What trials call: every method may be called by many trials at once.

    The base model and the data are loaded when they are first needed.
    """

    def __init__(
        self,
        config: dict[str, Any],
        identity: Identity | None = None,
        max_cores: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Remember what to load.

        Args:
            config: of a trial with the largest rank there will be, as JSON; its model, data and engine
                sections count.
            identity: what the search's first engine loaded; `None` in that engine.
            max_cores: cores that Ray offers on this node; `None`: all that the process may use.
            environment: variables that are set where this process has no value of its own.
        """
        for key, value in (environment or {}).items():
            os.environ.setdefault(key, value)
        self._config = TrialConfig.model_validate(config)
        self._identity = identity
        self._max_cores = max_cores
        self._seats = threading.Condition()
        self._tenants: dict[str, int | None] = {}
        self._saying = "base model and tokens"
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None
        self._last: dict[str, tuple[str, MetricsRecord]] = {}

    def saying(self) -> str:
        """Return what is being done at the moment, for the terminal."""
        return self._saying

    def prepare(self, target_modules: Sequence[Any]) -> Prepared:
        """Load everything, and return what there is.

        Args:
            target_modules: every value of `lora.target_modules` that a trial may come with.

        Raises:
            UserError: the data, the model or the target modules have to be corrected first.
        """
        from trainable.evaluation import limit_note

        loaded = self._load()
        for modules in target_modules:
            loaded.engine.plan(self._config.lora.model_copy(update={"target_modules": modules}))
        data = loaded.engine.data
        tables = {"train": data.train, "val": data.val, "test": data.test}
        note = limit_note(self._config.evaluation, data.val.target_lengths)
        return Prepared(
            slots=loaded.slots,
            identity=loaded.identity,
            model=loaded.engine.describe(self._config.model.name),
            tables={
                name: TableFacts(len(table), table.target_tokens, table.rows_truncated, data.notes[name])
                for name, table in tables.items()
                if table is not None
            },
            notes=[note] if note else [],
        )

    def join(
        self,
        name: str,
        config: dict[str, Any],
        checkpoint: str | None,
        interrupted: str | None = None,
        pid: int | None = None,
    ) -> None:
        """Give a trial a slot; a trial of that name that is still there leaves first.

        Waits while the device holds as many trials as fit it.

        Args:
            name: the trial's.
            config: its `TrialConfig`, as JSON.
            checkpoint: the place that it is resumed from.
            interrupted: the place that `save_all` saves it as; `None`: not at all.
            pid: the trial's process on this node; its slot is free once the process is dead.

        Raises:
            NodeError: this node cannot load what the search's first engine loaded.
        """
        from trainable.checkpoint.tensors import load_checkpoint

        parsed = TrialConfig.model_validate(config)
        loaded = load_checkpoint(checkpoint) if checkpoint else None
        loop = self._load().loop
        self._take_slot(name, pid)
        loop.leave(name)
        loop.call(lambda engine: engine.join(name, parsed, loaded))
        if interrupted is not None:
            self._last[name] = interrupted, MetricsRecord(loaded.record) if loaded else MetricsRecord()

    def advance(self, name: str, steps: int) -> dict[str, Any]:
        """Train for up to `steps` optimiser steps and return the metrics record of then."""
        from trainable.evaluation import score_texts

        loaded = self._load()
        before = loaded.use.read()
        answer = loaded.loop.advance(name, steps)
        answer.record |= loaded.use.since(before)
        if width := answer.record.get(FUSED_WIDTH):
            answer.record[DEVICE_SHARE] = 1 / width
        if answer.texts:
            config = loaded.loop.call(lambda engine: engine.tenant(name).config)
            answer.record |= score_texts(answer.texts, loaded.engine.data.val, config.evaluation).for_record()
        if name in self._last:
            record = MetricsRecord(answer.record).without_bulk()
            self._last[name] = self._last[name][0], record
        return answer.record

    def save(self, name: str, directory: str, record: dict[str, Any]) -> None:
        """Write a trial's checkpoint; others train on while the files are written."""
        from trainable.checkpoint.tensors import save_checkpoint

        snapshot = self._load().loop.call(lambda engine: engine.snapshot(name, record))
        save_checkpoint(Path(directory), snapshot)

    def save_all(self) -> None:
        """Save every trial after the step being taken, evaluated or not.

        Raises:
            OSError: a checkpoint could not be written; all others are.
        """
        from trainable.checkpoint.tensors import save_checkpoint

        if self._loaded is None:
            return
        errors: list[OSError] = []
        for name, (place, record) in list(self._last.items()):
            snapshot = self._loaded.loop.call(operator.methodcaller("snapshot", name, record))
            # A trial that is being answered at this moment has a record that is not known here yet; without
            # it the checkpoint would be a gap in the log. Its last steps are trained again instead.
            if snapshot.window["losses"] or snapshot.step == record.step:
                try:
                    save_checkpoint(place, snapshot)
                except OSError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def leave(self, name: str) -> None:
        """Free a trial's slot."""
        self._last.pop(name, None)
        self._load().loop.leave(name)
        with self._seats:
            self._tenants.pop(name, None)
            self._seats.notify_all()

    def assess(self, config: dict[str, Any], checkpoint: str, *, test: bool) -> "dict[str, Scored]":
        """Score a checkpoint's adapter.

        Args:
            config: the trial's `TrialConfig`, as JSON.
            checkpoint: its place.
            test: whether to score it on the test rows too, if there are any.

        Returns:
            By `val`, the texts for the sample of validation rows; by `test`, also the loss.
        """
        from trainable.engine.assessment import assess, score_sample

        name = f"assessment of {checkpoint}"
        self.join(name, config, checkpoint)
        loop, data = self._load().loop, self._load().engine.data
        try:
            found = {"val": loop.call(lambda engine: score_sample(engine, name, data.val))}
            if test and (held_out := data.test) is not None:
                found["test"] = loop.call(lambda engine: assess(engine, name, held_out))
            return found
        finally:
            self.leave(name)

    def _take_slot(self, name: str, pid: int | None) -> None:
        """Wait until the device has room for the trial; the slots of dead processes are freed."""
        with self._seats:
            while len(self._tenants.keys() - {name}) >= self._load().slots:
                if dead := [other for other, process in self._tenants.items() if not _is_alive(process)]:
                    for other in dead:
                        self._last.pop(other, None)
                        self._load().loop.leave(other)
                        del self._tenants[other]
                else:
                    self._seats.wait(_CHECK_S)
            self._tenants[name] = pid

    def _load(self) -> "_Loaded":
        """Return what is loaded, and load it the first time.

        Raises:
            UserError: the data, the model or the target modules have to be corrected first.
            NodeError: this node cannot load what the search's first engine loaded.
        """
        with self._loading:
            if self._loaded is None:
                first = self._identity is None
                self._loaded = self._load_any() if first else self._load_alike()
            return self._loaded

    def _load_any(self) -> "_Loaded":
        return _Loaded(self._config, self._say, self._max_cores)

    def _load_alike(self) -> "_Loaded":
        """Load as the search's first engine did.

        Raises:
            NodeError: something is missing or different here.
        """
        identity = self._identity
        assert identity is not None
        where = f"node {socket.gethostname()}"
        if difference := differences(software(), identity.software):
            raise NodeError(
                f"{where} has other software than the search's first engine: {difference}. Install the same "
                "versions on every node, or submit the code with the search (`loratune submit`)."
            )
        try:
            loaded = self._load_any()
        except (LoratuneError, OSError, ImportError) as error:
            raise NodeError(f"{where} cannot load what the search's first engine loaded: {error}") from error
        for name, found, wanted in (
            ("data", loaded.identity.data_hash, identity.data_hash),
            ("tokenizer", loaded.identity.tokens_id, identity.tokens_id),
            ("base model", loaded.identity.base_id, identity.base_id),
        ):
            if found != wanted:
                raise NodeError(
                    f"{where} has another {name} under the same path ({found[:24]}, not {wanted[:24]}). "
                    "Copy the files to this node, or put them on storage that all nodes share."
                )
        return loaded

    def _say(self, text: str) -> None:
        self._saying = text


class _Loaded:
    """A host's engine and its loop."""

    def __init__(self, config: TrialConfig, say: Callable[[str], None], max_cores: int | None) -> None:
        # Imported here alone: the trials' own processes import this module and stay without torch.
        from trainable.engine.build import build_engine
        from trainable.engine.device_use import DeviceUse
        from trainable.engine.loop import EngineLoop

        self.engine, self.slots = build_engine(config, say, max_cores)
        self.loop = EngineLoop(self.engine)
        self.use = DeviceUse(self.engine.device)
        data = self.engine.data
        self.identity = Identity(data.data_hash, data.tokens_id, self.engine.base.identity, software())


def _is_alive(pid: int | None) -> bool:
    """Return whether a process of this machine is there; one without an id is."""
    if pid is None:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
