"""Texts of an adapter for rows of a file, or for what a person types, with transformers and PEFT alone.

Prompts are made by the same code as in training: the prompt template, or the model's chat template. Texts are
generated greedily, as the search generated those that it scored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from trainable.data import Example, Files, read_examples
from trainable.data.encoding import RowEncoder
from trainable.data.examples import FORMS
from trainable.errors import DataError
from tune.read.experiment import BestAdapter

MAX_NEW_TOKENS = 256
"""Where neither the caller nor the configuration sets a limit."""
_PLACEHOLDER = "a"
"""Stands for the target of a row without one: prompts are cut off before it."""


@dataclass(frozen=True)
class Predicted:
    """A text for one row.

    Attributes:
        row: the row's number in its file, from 1.
        prompt: what the model saw, for people.
        prediction: what it wrote.
        reference: the row's target; `None` if it has none.
    """

    row: int
    prompt: str
    prediction: str
    reference: str | None

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(vars(self), ensure_ascii=False)


class Predictor:
    """A loaded adapter that writes texts."""

    def __init__(
        self,
        adapter: BestAdapter,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_new_tokens: int | None = None,
    ) -> None:
        """Load the base model with the adapter on it.

        Args:
            adapter: of an experiment.
            device: `auto` (a GPU where there is one), `cpu` or `cuda`.
            max_new_tokens: the limit; `None`: as configured, else 256.

        Raises:
            ModelError: the base model cannot be loaded.
        """
        self._config = adapter.config
        self._model, self._tokenizer = adapter.load(device)
        self._encoder = RowEncoder(self._tokenizer, self._config.data.max_length)
        stops = self._stop_ids()
        self._generation = GenerationConfig(
            max_new_tokens=max_new_tokens or self._config.evaluation.max_new_tokens or MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=stops or None,
        )

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return self._tokenizer.chat_template is not None

    def predict(self, file: Path) -> Iterator[Predicted]:
        """Yield a text for each row of a file; rows need no target.

        Raises:
            DataError: the file cannot be read, or a row has no prompt.
        """
        data = self._config.data
        columns = data.columns if isinstance(data.columns, Mapping) else None
        source = _Untargeted(Files((file,)), columns)
        for example in read_examples(source, data.prompt_template, columns):
            reference = None if example.row in source.without_target else example.target
            yield Predicted(example.row, example.prompt, self._text(example), reference)

    def answer(self, turns: Sequence[str]) -> str:
        """Return the answer to what was said so far, by the person and the model in turn.

        A model without a chat template sees the last turn only, in the prompt template.
        """
        if self.is_chat:
            roles = ("user", "assistant")
            messages = [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)]
            messages.append({"role": "assistant", "content": _PLACEHOLDER})
            example = Example(turns[-1], _PLACEHOLDER, messages=tuple(messages))
        else:
            prompt = self._config.data.prompt_template.replace("{input}", turns[-1])
            example = Example(prompt, _PLACEHOLDER)
        return self._text(example)

    def _text(self, example: Example) -> str:
        source = "the input"
        (encoded,) = self._encoder.encode([example], self._encoder.render([example], source), source)
        prompt = torch.from_numpy(encoded.ids[: encoded.begin]).long()[None].to(self._model.device)
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._generation,
            )
        return self._tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True).strip()

    def _stop_ids(self) -> list[int]:
        """Return the tokens that end a text, then have `generate` use none of the model's own options."""
        configured = getattr(self._model.generation_config, "eos_token_id", None)
        own = configured if isinstance(configured, list) else [configured]
        ids = [self._tokenizer.eos_token_id, *own]
        self._model.generation_config = GenerationConfig()
        self._model.get_base_model().generation_config = GenerationConfig()
        return list(dict.fromkeys(number for number in ids if number is not None))


class _Untargeted:
    """Rows of a file, with a placeholder where a row has a prompt and no target."""

    def __init__(self, files: Files, columns: Mapping[Any, str] | None) -> None:
        self._files = files
        self._columns = columns
        self.without_target: set[int] = set()

    @property
    def name(self) -> str:
        return self._files.name

    @property
    def note(self) -> str:
        return self._files.note

    def rows(self) -> Iterator[tuple[str, int, Any]]:
        for name, number, row in self._files.rows():
            completed = self._completed(row)
            if completed is not None:
                self.without_target.add(number)
            yield name, number, row if completed is None else completed

    def digest(self) -> list[Any]:
        return self._files.digest()

    def describe(self) -> dict[str, Any]:
        return self._files.describe()

    def _completed(self, row: Any) -> dict[str, Any] | None:
        """Return the row with a placeholder for its target; `None` if it has one, or no prompt either."""
        if isinstance(row, str):
            return {"input": row, "target": _PLACEHOLDER}
        if not isinstance(row, dict):
            return None
        if self._columns:
            missing = {column: _PLACEHOLDER for column in self._columns.values() if column not in row}
            return row | missing if 0 < len(missing) < len(self._columns) else None
        if isinstance(messages := row.get("messages"), list):
            last = messages[-1] if messages else None
            if isinstance(last, dict) and last.get("role") != "assistant":
                return row | {"messages": [*messages, {"role": "assistant", "content": _PLACEHOLDER}]}
            return None
        if any(set(form.needs) <= row.keys() for form in FORMS):
            return None
        for form in FORMS:
            prompt, target = form.needs[0], form.needs[-1]
            if len(form.needs) == 2 and prompt in row and prompt != "chosen":
                return row | {target: _PLACEHOLDER}
        return None


def check_input(file: Path) -> None:
    """Refuse a file that is not there before a model is loaded for it.

    Raises:
        DataError: it does not exist.
    """
    if not file.is_file():
        raise DataError(
            f"'{file}' does not exist. Name a file with one row per line, or a JSON list of rows."
        )
