"""The tiny model: a small Llama trained from scratch on a corpus, in float32 on one thread.

Floating-point sums depend on how they are split over threads. With one thread, the same corpus gives the same weights
on every machine of one class, however many cores the stage has.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from snaketune.settings.model_section import TinyModelSection

THREADS = 1
SKIPPED_LABEL = -100  # the label that the loss skips, as in PyTorch
WARMUP_SHARE = 0.05
FINAL_RATE_SHARE = 0.05
BETAS = (0.9, 0.95)  # a shorter average of the second moment halves the steps that a small model needs
WEIGHT_DECAY = 0.01
GRADIENT_NORM = 1.0
BATCHES_PER_BUCKET = 16
# Maximum number of positions of a step per sequence of a batch: batches of long texts have fewer sequences, so that the
# cost of pretraining depends only on steps and batch size. Packing would gain little over batches of similar length: 2%
# of the quickstart's positions are padding.
POSITIONS_PER_SEQUENCE = 128


@dataclass(frozen=True)
class Pretraining:
    """Pretraining settings of the tiny model: optimiser steps, sequences per step, peak learning rate and seed."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int

    @property
    def positions_per_step(self) -> int:
        """The maximum number of positions, including padding, of a step."""
        return self.batch_size * POSITIONS_PER_SEQUENCE


def build_model(cfg: TinyModelSection, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a randomly initialised Llama of the sizes in ``cfg`` (the ``model.tiny`` section)."""
    torch.manual_seed(cfg["seed"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=cfg["hidden_size"],
        intermediate_size=cfg["intermediate_size"],
        num_hidden_layers=cfg["num_hidden_layers"],
        num_attention_heads=cfg["num_attention_heads"],
        num_key_value_heads=cfg["num_attention_heads"],
        max_position_embeddings=cfg["max_position_embeddings"],
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).float()


def pretrain(model: LlamaForCausalLM, documents: Sequence[Sequence[int]], plan: Pretraining, pad_token_id: int) -> None:
    """Train all weights of ``model`` in place by next-token prediction with AdamW.

    Args:
        model: a model with float32 weights.
        documents: token ids of each sequence, at least two and at most the model's context length.
        plan: steps, batch size, learning rate and seed.
        pad_token_id: the id that pads shorter sequences of a batch.
    """
    torch.set_num_threads(THREADS)
    model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    batches = islice(endless_batches(documents, plan.batch_size, plan.seed), plan.steps)
    progress = tqdm(batches, total=plan.steps, desc="pretrain tiny model", unit="step", mininterval=1.0)
    for step, batch in enumerate(progress):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * rate_share(step, plan.steps)
        inputs, labels = pad(batch, pad_token_id)
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimiser.step()
        optimiser.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def rate_share(step: int, steps: int) -> float:
    """Return the fraction of the peak learning rate at ``step``: linear warm-up, then cosine decay to 5%."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    turn = math.cos(math.pi * (step - warmup) / max(1, steps - warmup))
    return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * 0.5 * (1 + turn)


def endless_batches(documents: Sequence[Sequence[int]], batch_size: int, seed: int) -> Iterator[list[Sequence[int]]]:
    """Yield batches endlessly, every document once per round, with documents of similar length in each batch.

    A round is shuffled and cut into buckets of 16 batches; each bucket is sorted by length and cut into batches, which
    come in random order. Padding then costs a few percent of the positions instead of a third. Batches of long
    documents are split until they have at most 128 positions per sequence of ``batch_size``, or one document.
    """
    rng = Random(seed)
    size = min(batch_size, len(documents))
    while True:
        order = list(range(len(documents)))
        rng.shuffle(order)
        for start in range(0, len(order), size * BATCHES_PER_BUCKET):
            bucket = sorted(order[start : start + size * BATCHES_PER_BUCKET], key=lambda i: len(documents[i]))
            batches = [bucket[at : at + size] for at in range(0, len(bucket), size)]
            rng.shuffle(batches)
            for batch in batches:
                fitting = max(1, size * POSITIONS_PER_SEQUENCE // len(documents[batch[-1]]))
                for at in range(0, len(batch), fitting):
                    yield [documents[i] for i in batch[at : at + fitting]]


def pad(batch: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input ids and labels of shape (sequences, longest), padded on the right; padding bears no loss.

    No attention mask is needed: attention is causal, and padding follows all real tokens.
    """
    longest = max(len(ids) for ids in batch)
    inputs = torch.full((len(batch), longest), pad_token_id)
    labels = torch.full((len(batch), longest), SKIPPED_LABEL)
    for row, ids in enumerate(batch):
        inputs[row, : len(ids)] = labels[row, : len(ids)] = torch.tensor(ids)
    return inputs, labels


def encode_corpus(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, context_length: int, plan: Pretraining
) -> list[list[int]]:
    """Return sequences of token ids, each text between bos and eos tokens, as many as the training can use.

    A text longer than the context or than a step is cut. Every sequence has at least two tokens, so that there is
    something to predict. Texts are read only until there are enough sequences or tokens for all steps, so that no more
    of a large corpus is tokenised.
    """
    longest = min(context_length, plan.positions_per_step)
    sequences: list[list[int]] = []
    tokens = 0
    for text in texts:
        inside = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *inside, tokenizer.eos_token_id]
        pieces = [ids[at : at + longest] for at in range(0, len(ids), longest)]
        sequences += [piece for piece in pieces if len(piece) > 1]
        tokens += len(ids)
        if len(sequences) >= plan.steps * plan.batch_size or tokens >= plan.steps * plan.positions_per_step:
            break
    return sequences[: plan.steps * plan.batch_size]
