"""The embedded base model: small, built once from a recipe, kept in the user's cache.

A Llama of 1.5 M parameters with a BPE tokenizer of its own, trained for half a minute on general weather
prose. It exists so that a search runs, and its results mean something, without a model hub. The folder in the
cache is named by the recipe's hash. It is built under another name and renamed; while one process builds it,
others wait. A folder that does not match its manifest is built again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from trainable.errors import ModelError
from trainable.extension import load_object
from trainable.files import check_manifest, loratune_cache, write_manifest

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True)
class Recipe:
    """All that the built-in model depends on.

    Attributes:
        version: identifies, with the model's name, what the model is; raised with every change of these
            fields, of the prose, or of the code below that changes the model. A test holds them to it.
        prose: `package.module:function` that writes the sentences, given their number and a seed.
    """

    version: int = 1
    prose: str = "trainable.weather.prose:write_prose"
    vocabulary: int = 2048
    hidden_size: int = 160
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 448
    positions: int = 1024
    initializer_range: float = 0.06
    sentences: int = 20_000
    steps: int = 160
    batch_size: int = 16
    sequence_length: int = 128
    learning_rate: float = 4e-3
    seed: int = 0

    @property
    def key(self) -> str:
        """A hash of the recipe, which names its folder."""
        fields = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    def write_prose(self) -> list[str]:
        """Return the sentences that the tokenizer and the model are trained on."""
        return load_object(self.prose, "the recipe's prose")(self.sentences, self.seed)


def build(recipe: Recipe, report: Callable[[str], None]) -> Path:
    """Return the folder of the recipe's model, which plain transformers loads; build it if it is not there.

    Args:
        recipe: what to build.
        report: receives lines on the progress.

    Raises:
        ModelError: the cache cannot be written.
    """
    folder = loratune_cache() / "models" / f"builtin-tiny-{recipe.key}"
    if check_manifest(folder) is not None:
        try:
            _build_exclusively(recipe, folder, report)
        except OSError as error:
            raise ModelError(
                f"builtin:tiny cannot be built in '{folder.parent}': {error}. It takes 10 MB of "
                "a folder that can be written; set LORATUNE_CACHE to one."
            ) from error
    return folder


def _build_exclusively(recipe: Recipe, folder: Path, report: Callable[[str], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder.with_suffix(".lock"), report):
        if check_manifest(folder) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            temporary = folder.with_suffix(".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            _build_files(recipe, temporary, report)
            temporary.rename(folder)


def _build_files(recipe: Recipe, folder: Path, report: Callable[[str], None]) -> None:
    texts = recipe.write_prose()
    report("building builtin:tiny: tokenizer")
    tokenizer = _train_tokenizer(recipe, texts)
    model = _train_model(recipe, tokenizer, texts, report)
    transformers_logging.disable_progress_bar()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    write_manifest(folder)


def _train_tokenizer(recipe: Recipe, texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which a token holds at most two digits, so that numbers can be copied."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d{1,2}| ?[^\s\d]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The model is pre-trained on texts that begin with BOS, so whoever tokenizes a prompt must get it.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=recipe.positions,
        clean_up_tokenization_spaces=False,
    )


def _train_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, texts: list[str], report: Callable[[str], None]
) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=recipe.hidden_size,
                intermediate_size=recipe.intermediate_size,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.kv_heads,
                max_position_embeddings=recipe.positions,
                # Llama's 0.02 is meant for a width of thousands; here it would double the steps needed.
                initializer_range=recipe.initializer_range,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    rows = _pack(recipe, tokenizer, texts)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, (0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1
    )
    order = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        batch = rows[torch.randint(len(rows), (recipe.batch_size,), generator=order)]
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            report(f"building builtin:tiny: {100 * step // recipe.steps} % (loss {loss.item():.2f})")
    return model.eval()


def _pack(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return the texts as rows of `sequence_length + 1` tokens, each text in BOS and EOS."""
    stream: list[int] = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    width = recipe.sequence_length + 1
    return torch.tensor(stream[: len(stream) // width * width]).view(-1, width)


@contextlib.contextmanager
def _exclusive(lock: Path, report: Callable[[str], None]) -> Iterator[None]:
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that builds builtin:tiny")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
