"""The engine as a Ray actor: one per device, shared by the trials that Ray packs onto that device.

Trials ask the experiment's `Hosts` for the host of their node and device; the first to ask has it created.
`Hosts` belongs to the driver and the hosts belong to it, so that all of them end with the driver, however it
ends, and a device is never held by an engine that nobody uses.

A host that dies (killed, out of memory) takes no trial with it: its trials come back with their last
checkpoint, name the host that failed them, and get a new one.
"""

import operator
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.config import TrialConfig
from trainable.errors import LoratuneError, NodeError
from trainable.lora.description import ModelDescription
from trainable.records import MetricsRecord
from trainable.software import differences, software

if TYPE_CHECKING:
    from trainable.evaluation import Scored

_LONGEST_BACK_OFF_S = 30.0
_ANSWER_S = 20.0
"""How long a host may take to answer before it counts as dead."""
_MAX_TRIALS = 256
"""Trials that may wait in one host at a time; each holds a thread, which only waits."""


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

    def __init__(self, config: dict[str, Any], identity: Identity | None = None) -> None:
        """Remember what to load.

        Args:
            config: of a trial with the largest rank there will be, as JSON; its model, data and engine
                sections count.
            identity: what the search's first engine loaded; `None` in that engine.
        """
        self._config = TrialConfig.model_validate(config)
        self._identity = identity
        self._saying = "base model and tokens"
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None
        self._last: dict[str, tuple[Path, MetricsRecord]] = {}

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
        self, name: str, config: dict[str, Any], checkpoint: str | None, interrupted: str | None = None
    ) -> None:
        """Give a trial a slot; a trial of that name that is still there leaves first.

        Args:
            name: the trial's.
            config: its `TrialConfig`, as JSON.
            checkpoint: the folder that it is resumed from.
            interrupted: the folder that `save_all` saves it as; `None`: not at all.
        """
        from trainable.checkpoint.tensors import load_checkpoint

        parsed = TrialConfig.model_validate(config)
        loaded = load_checkpoint(Path(checkpoint)) if checkpoint else None
        loop = self._load().loop
        loop.leave(name)
        loop.call(lambda engine: engine.join(name, parsed, loaded))
        if interrupted is not None:
            self._last[name] = Path(interrupted), MetricsRecord(loaded.record) if loaded else MetricsRecord()

    def advance(self, name: str, steps: int) -> dict[str, Any]:
        """Train for up to `steps` optimiser steps and return the metrics record of then."""
        from trainable.evaluation import score_texts

        loaded = self._load()
        answer = loaded.loop.advance(name, steps)
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

    def assess(self, config: dict[str, Any], checkpoint: str, *, test: bool) -> "dict[str, Scored]":
        """Score a checkpoint's adapter.

        Args:
            config: the trial's `TrialConfig`, as JSON.
            checkpoint: its folder.
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

    def _load(self) -> "_Loaded":
        """Return what is loaded, and load it the first time.

        Raises:
            UserError: the data, the model or the target modules have to be corrected first.
            NodeError: this node cannot load what the search's first engine loaded.
        """
        with self._loading:
            if self._loaded is None:
                self._loaded = (
                    self._load_here() if self._identity is None else self._load_alike(self._identity)
                )
            return self._loaded

    def _load_here(self) -> "_Loaded":
        return _Loaded(self._config, self._say)

    def _load_alike(self, identity: Identity) -> "_Loaded":
        """Load as another node did.

        Raises:
            NodeError: something is missing or different here.
        """
        where = f"node {socket.gethostname()}"
        if difference := differences(software(), identity.software):
            raise NodeError(
                f"{where} has other software than the search's first engine: {difference}. Install the same "
                "versions on every node, or submit the code with the search (`loratune submit`)."
            )
        try:
            loaded = self._load_here()
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

    def __init__(self, config: TrialConfig, say: Callable[[str], None]) -> None:
        # Imported here alone: the trials' own processes import this module and stay without torch.
        from trainable.engine.build import build_engine
        from trainable.engine.loop import EngineLoop

        self.engine, self.slots = build_engine(config, say)
        self.loop = EngineLoop(self.engine)
        data = self.engine.data
        self.identity = Identity(data.data_hash, data.tokens_id, self.engine.base.identity, software())


class Hosts:
    """The hosts of one experiment, by node and device."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Remember what hosts are made from: the experiment's `TrialConfig`, as JSON."""
        self._config = config
        self._identity: Identity | None = None
        self._hosts: dict[tuple[str, str], ActorHandle] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._unfit: dict[str, str] = {}

    def expect(self, identity: Identity) -> None:
        """Have every engine that is created from now on load this, or fail with a `NodeError`."""
        self._identity = identity

    def mark_unfit(self, node: str, reason: str) -> None:
        """Note that a node cannot compute what the others compute."""
        self._unfit[node] = reason

    def unfit(self) -> dict[str, str]:
        """Return why each unfit node is unfit, by Ray's node id."""
        return self._unfit

    def host(self, node: str, gpu: str, failed: ActorHandle | None = None) -> tuple[ActorHandle, float]:
        """Return the host of a device, and how long the caller should wait before it uses it, in seconds.

        One is created if there is none or it is the one that `failed`. Whatever kills engines one after the
        other may need time to pass; the caller waits, not this actor, which serves all other devices too.

        Args:
            node: Ray's node id.
            gpu: the GPU's id on that node; empty for the CPU.
            failed: the host that the caller saw die.
        """
        device = node, gpu
        present = self._hosts.get(device)
        wait_s = 0.0
        if failed is not None and present == failed:
            self._failures[device] += 1
            wait_s = min(2.0 ** (self._failures[device] - 2), _LONGEST_BACK_OFF_S)
            present = None
        if present is None:
            present = self._hosts[device] = self._create(node, gpu)
        return present, wait_s

    def save_all(self) -> None:
        """Have every host save its trials; what one host cannot save does not keep the others from it."""
        for saving in [host.save_all.remote() for host in self._hosts.values()]:
            with suppress(RayError):
                ray.get(saving)

    def any_host(self) -> ActorHandle:
        """Return a host that answers, for work that needs an engine and no device of its own.

        Raises:
            LookupError: no engine answers, and no node of an earlier one is left to start one on.
        """
        for host in self._hosts.values():
            with suppress(RayError):
                ray.get(host.saying.remote(), timeout=_ANSWER_S)
                return host
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for node, gpu in self._hosts:
            if node in alive:
                self._hosts[node, gpu] = self._create(node, gpu)
                return self._hosts[node, gpu]
        raise LookupError("no node of this experiment's engines is left")

    def _create(self, node: str, gpu: str) -> ActorHandle:
        # Ray accounts the device to the trials, not to the host, so the host is given the device by name.
        config = self._config
        if gpu and config["engine"]["device"] == "auto":
            # A GPU that torch cannot see must be an error, not training on the CPU.
            config = config | {"engine": config["engine"] | {"device": "cuda"}}
        visible = {"CUDA_VISIBLE_DEVICES": gpu, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        return (
            ray.remote(EngineHost)
            .options(
                num_cpus=0,
                max_concurrency=_MAX_TRIALS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": visible} if gpu else None,
            )
            .remote(config, self._identity)
        )


def hosts_name(experiment: str) -> str:
    """Return the name under which an experiment's `Hosts` actor is found."""
    return f"loratune:{experiment}"


def create_hosts(experiment: str, config: TrialConfig) -> ActorHandle:
    """Create the experiment's `Hosts` on this node; it and all its hosts end with this process.

    On any other node it would be one more machine whose loss ends every engine.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(Hosts)
        .options(name=hosts_name(experiment), num_cpus=0, scheduling_strategy=here)
        .remote(config.model_dump(mode="json"))
    )
